/* Looking at a directory: what it is, what it holds, what is wrong with it. */
#include "base/file.h"
#include "models/arch.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ie_inspection {
  ie_device *device;         /* one scalar thread: binding needs a kernel table, and computes nothing */
  ie_model *model;           /* NULL when it could not be bound */
  ie_checkpoint *checkpoint; /* of its own when there is no model */
  ie_model_info info;
  ie_problem *problems;
  size_t problem_count;
};

__attribute__((format(printf, 4, 5))) static void
problem_add(ie_inspection *inspection, ie_problem_level level, const char *where, const char *format, ...) {
  size_t n = inspection->problem_count;
  ie_problem *grown = realloc(inspection->problems, (n + 1) * sizeof *grown);
  if (!grown) return; /* out of memory: the problems found so far stand */
  inspection->problems = grown;
  ie_problem *problem = &grown[n];
  problem->level = level;
  snprintf(problem->where, sizeof problem->where, "%s", where);
  va_list args;
  va_start(args, format);
  vsnprintf(problem->what, sizeof problem->what, format, args);
  va_end(args);
  inspection->problem_count = n + 1;
}

static const ie_checkpoint *inspected(const ie_inspection *inspection) {
  return inspection->model ? inspection->model->checkpoint : inspection->checkpoint;
}

/* 255 is NaN in an E8M0 scale (OCP MX 1.0, 5.4.1). */
static void scales_check(ie_inspection *inspection, const ie_tensor_info *t) {
  const char *dot = strrchr(t->name, '.');
  const char *underscore = strrchr(t->name, '_');
  bool scales = (dot && !strcmp(dot, ".scales")) || (underscore && !strcmp(underscore, "_scales"));
  if (!scales || t->dtype != IE_U8) return;
  const uint8_t *bytes = t->data;
  const uint8_t *nan = memchr(bytes, 255, t->bytes);
  if (nan)
    problem_add(inspection, IE_PROBLEM_ERROR, t->name, "the MXFP4 scale at byte %zu is 255, which is NaN",
                (size_t)(nan - bytes));
}

static void tensors_check(ie_inspection *inspection) {
  const ie_checkpoint *checkpoint = inspected(inspection);
  for (size_t i = 0; i < ie_checkpoint_count(checkpoint); i++) {
    const ie_tensor_info *t = ie_checkpoint_at(checkpoint, i);
    scales_check(inspection, t);
    size_t align = ie_dtype_bytes(t->dtype);
    if (align > 1 && t->offset % align != 0)
      problem_add(inspection, IE_PROBLEM_WARNING, t->name,
                  "its data at byte %llu is not aligned to %zu bytes", (unsigned long long)t->offset, align);
    if (t->bytes > 0 && ie_checkpoint_is_copied(checkpoint, t))
      problem_add(inspection, IE_PROBLEM_WARNING, t->name,
                  "its elements do not follow each other in the file: copied once at load, into %zu bytes",
                  t->bytes);
  }
  size_t views = ie_checkpoint_copied_bytes(checkpoint);
  if (inspection->model && inspection->model->info.weights_copied_bytes > views)
    problem_add(inspection, IE_PROBLEM_WARNING, "experts",
                "stored input-first: transposed once at load, into %zu bytes of memory",
                inspection->model->info.weights_copied_bytes - views);
}

static void files_check(ie_inspection *inspection, const char *dir) {
  char *path;
  if (ie_checkpoint_path(inspected(inspection), "generation_config.json", &path, NULL) == IE_OK && !path)
    problem_add(inspection, IE_PROBLEM_WARNING, "generation_config.json",
                "missing: stop ids come from config.json");
  free(path);
  for (int i = 0; inspection->model && i < inspection->model->info.stop_count; i++)
    if (inspection->model->info.stop_ids[i] >= inspection->model->info.vocab)
      problem_add(inspection, IE_PROBLEM_WARNING, "eos_token_id",
                  "stop id %d is not below the vocabulary, %lld", inspection->model->info.stop_ids[i],
                  (long long)inspection->model->info.vocab);
  if (inspection->model && inspection->model->info.stop_count == 0)
    problem_add(inspection, IE_PROBLEM_WARNING, dir,
                "no stop ids: generation ends at the given number of tokens only");
}

ie_status ie_inspect_open(const char *dir, ie_inspection **out, ie_error *error) {
  *out = NULL;
  if (!ie_folder_exists(dir)) return ie_error_set(error, IE_IO, "%s: not a folder that can be read", dir);
  ie_inspection *inspection = calloc(1, sizeof *inspection);
  if (!inspection) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory");
  ie_error why = {0};
  ie_status status =
      ie_device_open(&(ie_device_options){.isa = "scalar", .threads = 1}, &inspection->device, error);
  if (status != IE_OK) {
    free(inspection);
    return status;
  }
  status = ie_model_open(inspection->device, dir, &(ie_model_options){.plan_only = true}, &inspection->model,
                         &why);
  if (status == IE_OK) {
    inspection->info = inspection->model->info;
  } else {
    problem_add(inspection, IE_PROBLEM_ERROR, dir, "%s", why.message);
    ie_error unused;
    if (ie_checkpoint_open(dir, &inspection->checkpoint, &unused) == IE_OK)
      inspection->info.dir = ie_checkpoint_dir(inspection->checkpoint);
  }
  if (inspected(inspection)) {
    tensors_check(inspection);
    files_check(inspection, dir);
  }
  *out = inspection;
  return IE_OK;
}

void ie_inspect_free(ie_inspection *inspection) {
  if (!inspection) return;
  ie_model_free(inspection->model);
  ie_checkpoint_free(inspection->checkpoint);
  ie_device_free(inspection->device);
  free(inspection->problems);
  free(inspection);
}

const ie_model_info *ie_inspect_info(const ie_inspection *inspection) {
  return &inspection->info;
}

size_t ie_inspect_tensor_count(const ie_inspection *inspection) {
  return inspected(inspection) ? ie_checkpoint_count(inspected(inspection)) : 0;
}

const ie_tensor_info *ie_inspect_tensor(const ie_inspection *inspection, size_t i) {
  return ie_checkpoint_at(inspected(inspection), i);
}

size_t ie_inspect_problem_count(const ie_inspection *inspection) {
  return inspection->problem_count;
}
const ie_problem *ie_inspect_problem(const ie_inspection *inspection, size_t i) {
  return &inspection->problems[i];
}
