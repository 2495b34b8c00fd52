#include "support/golden.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void cases_read(golden_model *m) {
  for (int i = 0; i < GOLDEN_CASES_MAX; i++) {
    char name[64];
    snprintf(name, sizeof name, "case%d.ids", i);
    const ie_tensor_info *ids = ie_tensor_file_get(m->file, name);
    snprintf(name, sizeof name, "case%d.logits", i);
    const ie_tensor_info *logits = ie_tensor_file_get(m->file, name);
    snprintf(name, sizeof name, "case%d.greedy", i);
    const ie_tensor_info *greedy = ie_tensor_file_get(m->file, name);
    snprintf(name, sizeof name, "case%d.gap", i);
    const ie_tensor_info *gap = ie_tensor_file_get(m->file, name);
    if (!ids || !logits || !greedy || !gap) break;
    m->cases[m->count++] = (golden_case){.ids = ids->data,
                                         .T = ids->shape[0],
                                         .V = logits->shape[1],
                                         .logits = logits->data,
                                         .greedy = greedy->data,
                                         .gap = gap->data,
                                         .new_tok = greedy->shape[0]};
  }
}

static bool model_open(const char *dir, golden_model *m) {
  char path[1100];
  ie_error error;
  snprintf(m->dir, sizeof m->dir, "%s", dir);
  m->name = strrchr(m->dir, '/') + 1;
  snprintf(path, sizeof path, "%s/reference.safetensors", dir);
  if (ie_tensor_file_open(path, &m->file, &error) != IE_OK) return false;
  cases_read(m);
  snprintf(path, sizeof path, "%s/reference.json", dir);
  json_t *info = json_load_file(path, 0, NULL);
  m->noise = json_number_value(json_object_get(info, "noise_f32_vs_f64"));
  m->rounding_bf16 = json_number_value(json_object_get(info, "rounding_error_bf16_inputs_median"));
  m->rounding_int8 = json_number_value(json_object_get(info, "rounding_error_int8_inputs_median"));
  json_decref(info);
  return m->count > 0;
}

static int by_name(const void *a, const void *b) {
  return strcmp(a, b);
}

/* By the folder's name. */
static bool is_built(const char *name) {
  static const char *const prefixes[] = {"gpt-oss", "gpt-neox", "qwen", "llama", "nanochat"};
  for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++)
    if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) return true;
  return false;
}

int golden_open_all(const char *root, golden_model *out, int max) {
  char(*names)[256] = calloc(GOLDEN_MODELS_MAX, sizeof *names);
  int found = 0, opened = 0;
  DIR *dir = opendir(root);
  for (struct dirent *entry; dir && found < GOLDEN_MODELS_MAX && (entry = readdir(dir)) != NULL;)
    if (is_built(entry->d_name)) snprintf(names[found++], 256, "%s", entry->d_name);
  if (dir) closedir(dir);
  qsort(names, (size_t)found, sizeof *names, by_name);
  for (int i = 0; i < found && opened < max; i++) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", root, names[i]);
    memset(&out[opened], 0, sizeof out[opened]);
    if (model_open(path, &out[opened])) opened++;
  }
  free(names);
  return opened;
}

void golden_close(golden_model *model) {
  ie_tensor_file_free(model->file);
}

double golden_error(const float *a, const float *b, int64_t n) {
  double largest = 0, worst = 0;
  for (int64_t i = 0; i < n; i++) {
    double d = fabs((double)a[i] - (double)b[i]);
    if (isnan(d)) return INFINITY;
    if (d > worst) worst = d;
    if (fabs((double)b[i]) > largest) largest = fabs((double)b[i]);
  }
  return worst / (largest > 0 ? largest : 1e-30);
}

typedef struct rows {
  float *out;
  int64_t vocab;
} rows;

static ie_status keep_rows(void *arg, int64_t position, int64_t count, const float *logits, ie_error *error) {
  (void)error;
  rows *r = arg;
  memcpy(r->out + position * r->vocab, logits, (size_t)(count * r->vocab) * sizeof(float));
  return IE_OK;
}

float *golden_logits(ie_model *model, const int32_t *ids, int64_t T, int64_t chunk) {
  ie_error error = {0};
  ie_state *state;
  rows r = {.vocab = ie_model_describe(model)->vocab};
  r.out = malloc((size_t)(T * r.vocab) * sizeof(float));
  assert_non_null(r.out);
  ie_status status =
      ie_state_new(model, &(ie_state_options){.context_tok = T, .chunk_tok = chunk}, &state, &error);
  if (status != IE_OK) fail_msg("%s", error.message);
  status = ie_state_append(state, 0, ids, T,
                           &(ie_append_options){.all_logits = true, .logits = keep_rows, .arg = &r}, &error);
  if (status != IE_OK) fail_msg("%s", error.message);
  ie_state_free(state);
  return r.out;
}
