/* Prompts as token ids: one or more rows, from --ids, --ids-file or text. */
#ifndef CLOCHER_CLI_ROWS_H
#define CLOCHER_CLI_ROWS_H

#include "clocher/status.h"
#include "clocher/text.h"

#include <stddef.h>
#include <stdint.h>

/* Row i is ids[start[i]] .. ids[start[i + 1] - 1]. All-zero is empty; rows_free releases it. */
typedef struct cli_rows {
  ie_ids ids;
  size_t *start; /* (count + 1) */
  size_t count;
} cli_rows;

void cli_rows_free(cli_rows *rows);

static inline const int32_t *cli_row(const cli_rows *rows, size_t i) {
  return rows->ids.ids + rows->start[i];
}
static inline int64_t cli_row_length(const cli_rows *rows, size_t i) {
  return (int64_t)(rows->start[i + 1] - rows->start[i]);
}
int64_t cli_rows_longest(const cli_rows *rows);

/* "1,2,3;4,5": decimal ids separated by commas, rows by semicolons; nothing else, no row empty. Each id is below
 * vocab. IE_INVALID_ARGUMENT names the row, the id and the limit. */
ie_status cli_rows_parse(const char *text, int64_t vocab, cli_rows *out, ie_error *error);

/* The I32 tensor `ids`, (T) or (B, T), of a safetensors file. */
ie_status cli_rows_read(const char *path, int64_t vocab, cli_rows *out, ie_error *error);

/* Adds one row at the end. IE_INVALID_ARGUMENT when there are no ids or one is not below vocab. */
ie_status cli_rows_add(cli_rows *rows, const int32_t *ids, size_t count, int64_t vocab, ie_error *error);

#endif
