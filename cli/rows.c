#include "rows.h"

#include "cli.h"
#include "clocher/tensor.h"

#include <stdlib.h>
#include <string.h>

void cli_rows_free(cli_rows *rows) {
  ie_ids_free(&rows->ids);
  free(rows->start);
  *rows = (cli_rows){0};
}

int64_t cli_rows_longest(const cli_rows *rows) {
  int64_t longest = 0;
  for (size_t i = 0; i < rows->count; i++)
    if (cli_row_length(rows, i) > longest) longest = cli_row_length(rows, i);
  return longest;
}

/* Ends the row that was begun. */
static ie_status row_end(cli_rows *rows, ie_error *error) {
  size_t *start = realloc(rows->start, (rows->count + 2) * sizeof *start);
  if (!start) return ie_error_set(error, IE_OUT_OF_MEMORY, "ids: out of memory");
  rows->start = start;
  if (rows->count == 0) start[0] = 0;
  start[++rows->count] = rows->ids.count;
  return IE_OK;
}

static ie_status id_refuse(size_t row, const char *text, size_t length, const char *why, int64_t vocab,
                           ie_error *error) {
  return ie_error_set(error, IE_INVALID_ARGUMENT, "ids: row %zu: '%.*s%s' %s; expected ids from 0 to %lld",
                      row + 1, (int)(length < 40 ? length : 40), text, length > 40 ? "..." : "", why,
                      (long long)vocab - 1);
}

ie_status cli_rows_parse(const char *text, int64_t vocab, cli_rows *out, ie_error *error) {
  cli_rows rows = {0};
  ie_status status = IE_OK;
  for (const char *at = text; status == IE_OK;) {
    at += strspn(at, " ");
    size_t end = strcspn(at, ",;"), length = end;
    while (length > 0 && at[length - 1] == ' ') length--;
    char item[24];
    int64_t id = 0;
    bool digits = length > 0 && strspn(at, "0123456789") == length;
    if (length == 0) {
      status = id_refuse(rows.count, "", 0, "is an empty id", vocab, error);
    } else if (!digits) {
      bool negative = *at == '-' && length > 1 && strspn(at + 1, "0123456789") == length - 1;
      status = id_refuse(rows.count, at, length, negative ? "is negative" : "is not a number", vocab, error);
    } else {
      bool fits = length < sizeof item;
      if (fits) {
        memcpy(item, at, length);
        item[length] = '\0';
      }
      if (!fits || !cli_parse_int(item, 0, vocab - 1, &id))
        status = id_refuse(rows.count, at, length, "is too large", vocab, error);
    }
    int32_t small = (int32_t)id;
    if (status == IE_OK) status = ie_ids_append(&rows.ids, &small, 1, error);
    if (status == IE_OK && at[end] != ',') status = row_end(&rows, error);
    if (!at[end]) break;
    at += end + 1;
  }
  if (status != IE_OK) {
    cli_rows_free(&rows);
    return status;
  }
  *out = rows;
  return IE_OK;
}

static ie_status ids_check(const int32_t *ids, size_t count, size_t row, int64_t vocab, ie_error *error) {
  for (size_t i = 0; i < count; i++)
    if (ids[i] < 0 || ids[i] >= vocab)
      return ie_error_set(error, IE_INVALID_ARGUMENT,
                          "ids: row %zu, place %zu: %d; expected ids from 0 to %lld", row + 1, i + 1,
                          (int)ids[i], (long long)vocab - 1);
  return IE_OK;
}

static ie_status tensor_rows(const ie_tensor_info *t, const char *path, int64_t vocab, cli_rows *rows,
                             ie_error *error) {
  if (!t) return ie_error_set(error, IE_INVALID_ARGUMENT, "%s: it has no tensor ids", path);
  if (t->dtype != IE_I32 || t->rank < 1 || t->rank > 2)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "%s: ids: expected I32 with one or two dimensions, found %s with %d", path,
                        ie_dtype_name(t->dtype), t->rank);
  int64_t count = t->rank == 2 ? t->shape[0] : 1, length = t->shape[t->rank - 1];
  if (count < 1 || length < 1)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "%s: ids is empty; expected ids from 0 to %lld", path,
                        (long long)vocab - 1);
  int32_t *ids = malloc(t->bytes); /* a copy: in the file they may stand at any byte */
  if (!ids) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for ids", path);
  memcpy(ids, t->data, t->bytes);
  ie_status status = IE_OK;
  for (int64_t i = 0; status == IE_OK && i < count; i++) {
    status = ids_check(ids + i * length, (size_t)length, (size_t)i, vocab, error);
    if (status == IE_OK) status = ie_ids_append(&rows->ids, ids + i * length, (size_t)length, error);
    if (status == IE_OK) status = row_end(rows, error);
  }
  free(ids);
  return status;
}

ie_status cli_rows_read(const char *path, int64_t vocab, cli_rows *out, ie_error *error) {
  ie_tensor_file *file;
  cli_rows rows = {0};
  ie_status status = ie_tensor_file_open(path, &file, error);
  if (status != IE_OK) return status;
  status = tensor_rows(ie_tensor_file_get(file, "ids"), path, vocab, &rows, error);
  ie_tensor_file_free(file);
  if (status == IE_OK)
    *out = rows;
  else
    cli_rows_free(&rows);
  return status;
}

ie_status cli_rows_add(cli_rows *rows, const int32_t *ids, size_t count, int64_t vocab, ie_error *error) {
  if (count == 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "row %zu: the prompt is empty", rows->count + 1);
  ie_status status = ids_check(ids, count, rows->count, vocab, error);
  if (status == IE_OK) status = ie_ids_append(&rows->ids, ids, count, error);
  return status == IE_OK ? row_end(rows, error) : status;
}
