/* Results on stdout, and input from files and stdin.
 *
 * Commands write results with these functions (or stdio on stdout). A reader that went away (closed pipe) ends
 * the program quietly with exit 0; any other failed write gives a message and exit 1. Both are settled by
 * cli_out_finish, which main calls after the command: a command only has to stop early when cli_out_ok() says
 * that nobody reads any more. */
#ifndef CLOCHER_CLI_OUT_H
#define CLOCHER_CLI_OUT_H

#include "cli.h"
#include "clocher/text.h"

#include <jansson.h>
#include <stdio.h>

/* Opens /dev/null for each of stdin, stdout and stderr that is closed, so that no file that is opened later takes
 * its number; ignores SIGPIPE. Called first by main. */
void cli_out_init(void);

bool cli_out_write(cli_context *context, const void *bytes, size_t size);
__attribute__((format(printf, 2, 3))) bool cli_out_printf(cli_context *context, const char *format, ...);
/* Makes what was written visible to the reader now. */
bool cli_out_flush(cli_context *context);
/* False once a write to stdout has failed. */
bool cli_out_ok(const cli_context *context);
/* Flushes, reports, and returns the exit code: `code` when all was written. */
int cli_out_finish(cli_context *context, int code);

/* Appends; false when memory is out. */
bool cli_bytes_append(ie_bytes *bytes, const void *data, size_t size);
/* Appends text, each byte that is no part of a well-formed UTF-8 character replaced by U+FFFD. */
bool cli_utf8_append(ie_bytes *bytes, const char *text, size_t size);
/* "dir/name", fresh memory; NULL when memory is out. */
char *cli_path_join(const char *dir, const char *name);
/* Whether its name ends in .jsonl; NULL does not. */
bool cli_is_jsonl(const char *path);
/* Appends a whole file to *out; "-" is stdin. IE_IO, or IE_LIMIT above max_bytes. */
ie_status cli_read(const char *path, size_t max_bytes, ie_bytes *out, ie_error *error);

/* Before something long is computed for the file that `flag` names: -1 when it can be written as far as one can see,
 * or an exit code after a message: 2 for an empty path or a folder, 1 when its folder is missing or not writable.
 * replaced: the file is written whole and renamed into its place, so that a device or a pipe is refused (1). */
int cli_out_file_check(const cli_context *context, const char *flag, const char *path, bool replaced);
/* The same for a folder, which may be missing: -1, or 2 after a message where there is something else. */
int cli_out_folder_check(const cli_context *context, const char *flag, const char *path);

/* JSON results. All take ownership of `value` and answer NULL with "out of memory". */

/* Writes one value compactly and a newline. Returns CLI_OK, or CLI_FAILED after a message. */
int cli_out_json(cli_context *context, json_t *value);
/* Writes the same to another stream or file; false when memory is out or the write failed. */
bool cli_json_write(FILE *stream, json_t *value);
/* A number; null when it is not finite (no result may claim one). */
json_t *cli_json_number(double x);
/* A string; bytes that are no UTF-8 are replaced by U+FFFD. */
json_t *cli_json_text(const char *bytes, size_t size);
/* A string, or {"hex": "..."} when the bytes are no UTF-8. */
json_t *cli_json_bytes(const char *bytes, size_t size);
/* [ids...] */
json_t *cli_json_ids(const int32_t *ids, size_t count);

#endif
