#include "train_folder.h"

#include "out.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool file_filled(const char *dir, const char *name) {
  struct stat info;
  char *path = cli_path_join(dir, name);
  bool filled = path && stat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0;
  free(path);
  return filled;
}

/* step-000100, of any number of digits from six on. */
static bool is_snapshot(const char *name) {
  static const char prefix[] = "step-";
  if (strncmp(name, prefix, strlen(prefix)) != 0) return false;
  size_t digits = strspn(name + strlen(prefix), "0123456789");
  return digits >= 6 && name[strlen(prefix) + digits] == '\0';
}

/* What a run left in the folder, in name[size]; false: nothing. */
static bool run_found(const char *dir, char *name, size_t size) {
  static const char *const files[] = {"model.safetensors", "model.safetensors.index.json",
                                      "adapter_model.safetensors", "metrics.jsonl"};
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
    if (file_filled(dir, files[i])) {
      snprintf(name, size, "%s", files[i]);
      return true;
    }
  DIR *folder = opendir(dir);
  bool found = false;
  for (const struct dirent *e; folder && !found && (e = readdir(folder)) != NULL;) {
    found = is_snapshot(e->d_name);
    if (found) snprintf(name, size, "%s", e->d_name);
  }
  if (folder) closedir(folder);
  return found;
}

int train_folder_check(const cli_context *context, const char *out, const char *model_dir, bool resume) {
  struct stat folder, model;
  char name[256];
  if (stat(out, &folder) != 0) return -1;
  if (!S_ISDIR(folder.st_mode)) return cli_usage(context, "--out %s: expected a folder, found a file", out);
  if (stat(model_dir, &model) == 0 && model.st_dev == folder.st_dev && model.st_ino == folder.st_ino)
    return cli_usage(context, "--out %s is the model's own folder: a run needs one of its own", out);
  if (resume || !run_found(out, name, sizeof name)) return -1;
  return cli_usage(
      context,
      "--out %s holds a run already (%s): --resume goes on with it; for a new one name another folder", out,
      name);
}

ie_status train_folder_make(const char *out, ie_error *error) {
  if (mkdir(out, 0777) == 0 || errno == EEXIST) return IE_OK;
  return ie_error_set(error, IE_IO, "%s: cannot make the folder: %s", out, strerror(errno));
}

/* The line's step, or -1 where it is none of ours. */
static int64_t line_step(const char *line) {
  json_t *object = json_loads(line, 0, NULL);
  const json_t *step = json_object_get(object, "step");
  int64_t value = json_is_integer(step) ? (int64_t)json_integer_value(step) : -1;
  json_decref(object);
  return value;
}

/* Copies the lines up to that step. */
static bool lines_copy(FILE *from, FILE *to, int64_t step) {
  char *line = NULL;
  size_t capacity = 0;
  bool ok = true;
  while (ok && getline(&line, &capacity, from) > 0) {
    int64_t found = line_step(line);
    if (found >= 0 && found <= step) ok = fputs(line, to) >= 0;
  }
  free(line);
  return ok && !ferror(from);
}

/* The file with these lines alone, written beside it and renamed. */
static bool file_cut(const char *path, int64_t step) {
  size_t size = strlen(path) + 5;
  char *fresh = malloc(size);
  if (!fresh) return false;
  snprintf(fresh, size, "%s.new", path);
  FILE *from = fopen(path, "re"), *to = from ? fopen(fresh, "we") : NULL;
  bool ok = to && lines_copy(from, to, step);
  if (to) ok = fclose(to) == 0 && ok;
  if (from) fclose(from);
  ok = ok && rename(fresh, path) == 0;
  int why = errno;
  if (!ok && to) unlink(fresh);
  free(fresh);
  errno = why;
  return ok;
}

ie_status train_metrics_open(const char *path, int64_t step, FILE **out, ie_error *error) {
  struct stat info;
  bool there = stat(path, &info) == 0 && S_ISREG(info.st_mode);
  *out = NULL;
  if (!there || file_cut(path, step)) *out = fopen(path, "ae");
  return *out ? IE_OK : ie_error_set(error, IE_IO, "%s: cannot write: %s", path, strerror(errno));
}
