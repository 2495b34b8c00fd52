/* Files of lines: prompts, and what else stands one a line. One reader, so that each command reads the same file the
 * same way. */
#ifndef CLOCHER_CLI_PROMPTS_FILE_H
#define CLOCHER_CLI_PROMPTS_FILE_H

#include "clocher/status.h"

#include <stddef.h>

/* Called for each line; text[size] without the line's end, borrowed; number counts from 1. What it returns but IE_OK
 * ends the walk. */
typedef ie_status (*cli_line_fn)(void *arg, const char *text, size_t size, size_t number, ie_error *error);

/* The lines of a file ("-": stdin). They end with LF or CRLF, the last one also with the file; a byte order mark at the
 * beginning is none of the text; lines that are empty or all spaces and tabs are skipped, and counted. IE_IO when the
 * file cannot be read. */
ie_status cli_lines_read(const char *path, cli_line_fn take, void *arg, ie_error *error);

/* The prompts of a file: its lines as above, or, when its name ends with .jsonl, the string "text", else "prompt", of
 * the object on each line (IE_FORMAT, with the line, when there is none). `take` gets each prompt's text. */
ie_status cli_prompts_read(const char *path, cli_line_fn take, void *arg, ie_error *error);

#endif
