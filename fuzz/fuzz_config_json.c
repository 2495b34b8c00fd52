/* config.json and generation_config.json beside the weights of a tiny gpt-oss. The first byte chooses the layout; the
 * rest is read as both files, first field by field, then as a model is opened (bound, not computed).
 * Covers: src/base/json.c src/models/rope.c
 * Length: 4096 */
#include "base/file.h"
#include "base/json.h"
#include "clocher/model.h"
#include "eval/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LAYOUTS = 2 };
static const char *const files[] = {"model.safetensors", "config.json", "generation_config.json"};
static char dirs[LAYOUTS][64];
static ie_device *device;

static void path_of(int layout, const char *name, char out[128]) {
  snprintf(out, 128, "%s/%s", dirs[layout], name);
}

static void clean(void) {
  char path[128];
  for (int i = 0; i < LAYOUTS; i++) {
    for (size_t k = 0; k < sizeof files / sizeof files[0]; k++) {
      path_of(i, files[k], path);
      (void)unlink(path);
    }
    (void)rmdir(dirs[i]);
  }
  ie_device_free(device);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
  (void)argc;
  (void)argv;
  static const synth_model model = {"tiny", "gpt_oss", 2, 32, 32, 64, 4, 2, 8, 4, 5000, 5000};
  const ie_device_options options = {.kind = "cpu", .isa = "scalar", .threads = 1};
  ie_error error;
  if (ie_device_open(&options, &device, &error) != IE_OK) abort();
  for (int i = 0; i < LAYOUTS; i++) {
    snprintf(dirs[i], sizeof dirs[i], "%s/fuzz-config-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(dirs[i])) abort();
    synth_plan plan;
    const ie_synth_options synth = {.dir = dirs[i], .threads = 1};
    if (ie_synth_plan_build(&model, i == 1, &plan, &error) != IE_OK) abort();
    if (ie_synth_plan_write(&plan, &synth, &error) != IE_OK) abort();
    ie_synth_plan_free(&plan);
  }
  return atexit(clean);
}

/* Every accessor keeps its promise about the range. */
static void fields_read(const json_t *root) {
  static const char *const keys[] = {"hidden_size",  "rope_theta",  "x",
                                     "rope_scaling", "layer_types", "use_cache"};
  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
    ie_error error = {0};
    ie_json_reader reader = {.object = root, .where = "input", .error = &error};
    int64_t n = ie_json_int(&reader, keys[i], 7, 0, 1000);
    if (n < 0 || n > 1000) abort();
    if (reader.status == IE_OK) n = ie_json_int_required(&reader, keys[i], 5, 50);
    if (reader.status == IE_OK && (n < 5 || n > 50)) abort();
    reader.status = IE_OK;
    double x = ie_json_number(&reader, keys[i], 1, -10, 10);
    if (!isfinite(x) || x < -10 || x > 10) abort();
    reader.status = IE_OK;
    (void)ie_json_bool(&reader, keys[i], true);
    reader.status = IE_OK;
    const char *s = ie_json_string(&reader, keys[i], "none");
    if (!s || (reader.status != IE_OK && !error.message[0])) abort();
    reader.status = IE_OK;
    const json_t *object = ie_json_object(&reader, keys[i]);
    if (object && !json_is_object(object)) abort();
    reader.status = IE_OK;
    const json_t *array = ie_json_array(&reader, keys[i]);
    if (array && !json_is_array(array)) abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  int layout = data[0] & 1;
  json_t *root;
  ie_error error = {0};
  if (ie_json_parse(data + 1, size - 1, 0, "input", &root, &error) == IE_OK && json_is_object(root))
    fields_read(root);
  json_decref(root);
  for (size_t k = 1; k < sizeof files / sizeof files[0]; k++) {
    char path[128];
    path_of(layout, files[k], path);
    FILE *file = fopen(path, "wb");
    if (!file || (size > 1 && fwrite(data + 1, 1, size - 1, file) != size - 1) || fclose(file) != 0) abort();
  }
  const ie_model_options options = {.plan_only = true};
  ie_model *model;
  error = (ie_error){0};
  if (ie_model_open(device, dirs[layout], &options, &model, &error) == IE_OK) {
    const ie_model_info *info = ie_model_describe(model);
    if (info->layers < 1 || info->width < 1 || info->vocab < 1 || info->context_tok < 1) abort();
    ie_plan plan;
    const ie_plan_options wanted = {.memory_bytes = 0};
    (void)ie_model_plan(model, &wanted, &plan, &error);
  } else if (!error.message[0]) {
    abort();
  }
  ie_model_free(model);
  return 0;
}
