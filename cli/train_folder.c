#include "train_folder.h"

#include "clocher/train.h"
#include "out.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static bool file_filled(const char *dir, const char *name) {
  struct stat info;
  char *path = cli_path_join(dir, name);
  bool filled = path && stat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0;
  free(path);
  return filled;
}

/* The finished model or adapter of a folder; NULL: none. */
static const char *model_found(const char *dir) {
  static const char *const files[] = {"model.safetensors", "model.safetensors.index.json",
                                      "adapter_model.safetensors"};
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
    if (file_filled(dir, files[i])) return files[i];
  return NULL;
}

static bool snapshot_found(const char *dir, char *name, size_t size) {
  DIR *folder = opendir(dir);
  bool found = false;
  for (const struct dirent *e; folder && !found && (e = readdir(folder)) != NULL;) {
    found = ie_train_snapshot_step(e->d_name) >= 0;
    if (found) snprintf(name, size, "%s", e->d_name);
  }
  if (folder) closedir(folder);
  return found;
}

int train_folder_check(const cli_context *context, const char *out, const char *model_dir, bool resume) {
  struct stat folder, model;
  char name[256];
  int code = cli_out_folder_check(context, "--out", out);
  if (code >= 0 || stat(out, &folder) != 0) return code;
  if (stat(model_dir, &model) == 0 && model.st_dev == folder.st_dev && model.st_ino == folder.st_ino)
    return cli_usage(context, "--out %s is the model's own folder: a run needs one of its own", out);
  const char *made = model_found(out), metrics[] = "metrics.jsonl";
  bool snapshot = snapshot_found(out, name, sizeof name);
  if (resume && made && !snapshot)
    return cli_usage(context,
                     "--out %s holds a finished run (%s) and no snapshot to go on from: name another folder "
                     "(--save-every keeps snapshots)",
                     out, made);
  if (!made && !snapshot && file_filled(out, metrics)) made = metrics;
  if (resume || (!made && !snapshot)) return -1;
  return cli_usage(context,
                   "--out %s holds a run already (%s): --resume goes on from its newest snapshot, or begins "
                   "anew where there is neither a snapshot nor a model; for another run name another folder",
                   out, made ? made : name);
}

ie_status train_folder_lock(const char *dir, int *out, ie_error *error) {
  *out = 0;
  if (mkdir(dir, 0777) != 0 && errno != EEXIST)
    return ie_error_set(error, IE_IO, "%s: cannot make the folder: %s", dir, strerror(errno));
  int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ie_error_set(error, IE_IO, "%s: cannot open the folder: %s", dir, strerror(errno));
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
    *out = fd;
    return IE_OK;
  }
  bool held = errno == EWOULDBLOCK;
  close(fd);
  return held ? ie_error_set(error, IE_LIMIT, "%s: another run writes into this folder", dir) : IE_OK;
}

int train_metrics_check(const cli_context *context, const char *path, bool resume) {
  struct stat info;
  bool filled = stat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0;
  if (resume || !filled) return -1;
  return cli_usage(context,
                   "--metrics %s is there already: --resume goes on with it; for a new run name another file",
                   path);
}

/* Metrics of a later step, or such a line that a kill cut short. */
static bool line_goes(const char *line, size_t size, int64_t step) {
  static const char begin[] = "{\"step\":";
  json_t *object = json_loadb(line, size, 0, NULL);
  const json_t *at = json_object_get(object, "step");
  bool ours = json_object_get(object, "loss") || json_object_get(object, "valid_loss");
  bool later = ours && json_is_integer(at) && json_integer_value(at) > step;
  bool torn = !object && size >= strlen(begin) && !memcmp(line, begin, strlen(begin));
  json_decref(object);
  return later || torn;
}

/* Copies the lines that stay; the last one ends as a line, so that the next is one of its own. */
static bool lines_copy(FILE *from, FILE *to, int64_t step) {
  char *line = NULL;
  size_t capacity = 0;
  bool ok = true;
  for (ssize_t n; ok && (n = getline(&line, &capacity, from)) > 0;) {
    size_t size = (size_t)n;
    if (line_goes(line, size, step)) continue;
    ok = fwrite(line, 1, size, to) == size && (line[size - 1] == '\n' || fputc('\n', to) != EOF);
  }
  free(line);
  return ok && !ferror(from);
}

/* The file with the lines that stay, written beside it and renamed. */
static bool file_cut(const char *path, int64_t step) {
  size_t size = strlen(path) + 5;
  char *fresh = malloc(size);
  if (!fresh) return false;
  snprintf(fresh, size, "%s.new", path);
  FILE *from = fopen(path, "re"), *to = from ? fopen(fresh, "we") : NULL;
  bool ok = to && lines_copy(from, to, step) && fflush(to) == 0 && fsync(fileno(to)) == 0;
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
