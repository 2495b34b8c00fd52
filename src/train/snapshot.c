#include "train/snapshot.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/folder.h"
#include "base/json.h"
#include "base/quote.h"
#include "clocher/train.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const char prefix[] = "step-", json_name[] = "state.json";

static ie_status memory_error(const char *where, ie_error *error) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", where);
}

char *ie_snapshot_path(const char *dir, int64_t step) {
  ie_buf path = {0};
  size_t n = strlen(dir);
  if (ie_buf_printf(&path, "%s%s%s%06lld", dir, n && dir[n - 1] == '/' ? "" : "/", prefix, (long long)step))
    return path.data;
  ie_buf_free(&path);
  return NULL;
}

int64_t ie_train_snapshot_step(const char *name) {
  if (strncmp(name, prefix, strlen(prefix)) != 0) return -1;
  const char *digits = name + strlen(prefix);
  size_t n = strspn(digits, "0123456789");
  if (n < 6 || n > 18 || digits[n] != '\0' || (n > 6 && digits[0] == '0')) return -1;
  return strtoll(digits, NULL, 10);
}

/* Whether the folder of that step holds a state. */
static ie_status is_whole(const char *dir, int64_t step, bool *whole, ie_error *error) {
  char *folder = ie_snapshot_path(dir, step);
  char *state = folder ? ie_path_join(folder, IE_SNAPSHOT_STATE) : NULL;
  ie_status status = state ? IE_OK : memory_error(dir, error);
  if (state) *whole = ie_file_exists(state);
  free(folder);
  free(state);
  return status;
}

static int step_compare(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

ie_status ie_snapshot_list_read(const char *dir, ie_snapshot_list *out, ie_error *error) {
  *out = (ie_snapshot_list){0};
  DIR *folder = opendir(dir);
  if (!folder && errno == ENOENT) return IE_OK;
  if (!folder) return ie_error_set(error, IE_IO, "%s: cannot read: %s", dir, strerror(errno));
  ie_status status = IE_OK;
  size_t capacity = 0;
  for (struct dirent *e; status == IE_OK && (e = readdir(folder)) != NULL;) {
    int64_t step = ie_train_snapshot_step(e->d_name);
    bool whole = false;
    if (step >= 0) status = is_whole(dir, step, &whole, error);
    if (!whole) continue;
    if (out->count == capacity) {
      capacity = capacity ? 2 * capacity : 16;
      int64_t *steps = realloc(out->steps, capacity * sizeof *steps);
      if (!steps) {
        status = memory_error(dir, error);
        break;
      }
      out->steps = steps;
    }
    out->steps[out->count++] = step;
  }
  closedir(folder);
  if (status != IE_OK) ie_snapshot_list_free(out);
  if (out->count) qsort(out->steps, out->count, sizeof *out->steps, step_compare);
  return status;
}

void ie_snapshot_list_free(ie_snapshot_list *list) {
  free(list->steps);
  *list = (ie_snapshot_list){0};
}

ie_status ie_snapshot_newest(const char *dir, char **path, ie_error *error) {
  ie_snapshot_list list;
  *path = NULL;
  ie_status status = ie_snapshot_list_read(dir, &list, error);
  if (status == IE_OK && list.count > 0) {
    *path = ie_snapshot_path(dir, list.steps[list.count - 1]);
    if (!*path) status = memory_error(dir, error);
  }
  ie_snapshot_list_free(&list);
  return status;
}

static ie_status state_write(const ie_snapshot *snapshot, const char *folder, ie_error *error) {
  char *path = ie_path_join(folder, IE_SNAPSHOT_STATE);
  ie_buf text = {0};
  ie_json_append(snapshot->state, JSON_COMPACT | JSON_SORT_KEYS, &text);
  ie_tensor_out *tensors = calloc(snapshot->count + 1, sizeof *tensors);
  ie_status status = path && !text.failed && tensors ? IE_OK : memory_error(folder, error);
  if (status == IE_OK) {
    for (size_t i = 0; i < snapshot->count; i++) {
      const ie_state_tensor *t = &snapshot->tensors[i];
      tensors[i] = (ie_tensor_out){.name = t->name, .dtype = t->dtype, .rank = t->rank, .data = t->data};
      memcpy(tensors[i].shape, t->shape, sizeof tensors[i].shape);
    }
    tensors[snapshot->count] = (ie_tensor_out){
        .name = json_name, .dtype = IE_U8, .rank = 1, .shape = {(int64_t)text.size}, .data = text.data};
    status = ie_tensor_file_write(path, tensors, snapshot->count + 1, error);
  }
  free(path);
  ie_buf_free(&text);
  free(tensors);
  return status;
}

static bool is_guarded(const ie_snapshot *snapshot, int64_t step) {
  return step > 0 && step == snapshot->guarded;
}

ie_status ie_snapshot_rotate(const ie_snapshot *snapshot, ie_error *error) {
  ie_snapshot_list list;
  if (snapshot->keep <= 0) return IE_OK;
  ie_status status = ie_snapshot_list_read(snapshot->dir, &list, error);
  size_t left = list.count;
  for (size_t i = 0; i < list.count; i++) left -= is_guarded(snapshot, list.steps[i]);
  for (size_t i = 0; status == IE_OK && i < list.count && left > (size_t)snapshot->keep; i++) {
    if (list.steps[i] == snapshot->step || is_guarded(snapshot, list.steps[i])) continue;
    char *path = ie_snapshot_path(snapshot->dir, list.steps[i]);
    status = path ? ie_folder_remove(path, error) : memory_error(snapshot->dir, error);
    free(path);
    left--;
  }
  ie_snapshot_list_free(&list);
  return status;
}

ie_status ie_snapshot_save(const ie_snapshot *snapshot, ie_error *error) {
  if (snapshot->step < 0 || snapshot->keep < 0 || !json_is_object(snapshot->state))
    return ie_error_set(error, IE_INVALID_ARGUMENT, "%s: no snapshot of step %lld", snapshot->dir,
                        (long long)snapshot->step);
  ie_staging staging;
  ie_status status = ie_folder_make(snapshot->dir, error);
  if (status != IE_OK) return status;
  ie_staging_clean(snapshot->dir, prefix);
  char *place = ie_snapshot_path(snapshot->dir, snapshot->step);
  if (!place) return memory_error(snapshot->dir, error);
  status = ie_staging_open(place, &staging, error);
  free(place);
  if (status != IE_OK) return status;
  if (snapshot->write_model) status = snapshot->write_model(snapshot->user, staging.path, error);
  if (status == IE_OK) status = state_write(snapshot, staging.path, error);
  if (status != IE_OK) {
    ie_staging_abandon(&staging);
    return status;
  }
  return ie_staging_commit(&staging, error);
}

static ie_status tensor_load(const ie_tensor_file *file, const ie_state_tensor *want, const char *path,
                             ie_error *error) {
  const ie_tensor_info *found = ie_tensor_file_get(file, want->name);
  if (!found)
    return ie_error_set(error, IE_FORMAT, "%s: tensor %s is missing", path, ie_quote(want->name).text);
  bool same = found->dtype == want->dtype && found->rank == want->rank;
  for (int d = 0; same && d < want->rank; d++) same = found->shape[d] == want->shape[d];
  if (!same)
    return ie_error_set(
        error, IE_FORMAT, "%s: tensor %s: expected %s of the run's shape, found %s of %zu bytes", path,
        ie_quote(want->name).text, ie_dtype_name(want->dtype), ie_dtype_name(found->dtype), found->bytes);
  if (found->bytes) memcpy(want->data, found->data, found->bytes);
  return IE_OK;
}

/* The run's object in an open state file. */
static ie_status state_parse(const ie_tensor_file *file, const char *name, json_t **out, ie_error *error) {
  const ie_tensor_info *text = ie_tensor_file_get(file, json_name);
  if (!text || text->dtype != IE_U8)
    return ie_error_set(error, IE_FORMAT, "%s: tensor %s is missing", name, json_name);
  ie_status status = ie_json_parse(text->data, text->bytes, JSON_REJECT_DUPLICATES, name, out, error);
  if (status != IE_OK || json_is_object(*out)) return status;
  status = ie_error_set(error, IE_FORMAT, "%s: %s: expected an object, found %s", name, json_name,
                        ie_json_type_name(*out));
  json_decref(*out);
  *out = NULL;
  return status;
}

ie_status ie_snapshot_state(const char *path, json_t **state, ie_error *error) {
  *state = NULL;
  char *name = ie_path_join(path, IE_SNAPSHOT_STATE);
  if (!name) return memory_error(path, error);
  ie_tensor_file *file;
  ie_status status = ie_tensor_file_open(name, &file, error);
  if (status == IE_OK) status = state_parse(file, name, state, error);
  ie_tensor_file_free(file);
  free(name);
  return status;
}

ie_status ie_snapshot_load(const char *path, const ie_state_tensor *tensors, size_t count, json_t **state,
                           ie_error *error) {
  *state = NULL;
  char *name = ie_path_join(path, IE_SNAPSHOT_STATE);
  if (!name) return memory_error(path, error);
  ie_tensor_file *file;
  ie_status status = ie_tensor_file_open(name, &file, error);
  json_t *found = NULL;
  if (status == IE_OK) status = state_parse(file, name, &found, error);
  if (status == IE_OK && ie_tensor_file_count(file) != count + 1)
    status = ie_error_set(error, IE_FORMAT, "%s: expected %zu tensors of state, found %zu", name, count,
                          ie_tensor_file_count(file) - 1);
  for (size_t i = 0; status == IE_OK && i < count; i++) status = tensor_load(file, &tensors[i], name, error);
  ie_tensor_file_free(file);
  free(name);
  if (status == IE_OK)
    *state = found;
  else
    json_decref(found);
  return status;
}
