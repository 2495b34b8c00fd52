/* Lines from a terminal, edited where libedit was built in, or from a pipe or file.
 *
 * On a terminal: arrow keys, history, and what else libedit does; Alt-Enter and pasted line ends give a line that says
 * that more follows. The history is a text file of one line each, mode 0600, appended to line by line, so that several
 * programs may use it at once. Ctrl-C gives LINE_INTERRUPTED: cli_signals_collect (terminal) or cli_signals_poll
 * (elsewhere) comes first. One thread at a time. */
#ifndef CLOCHER_CLI_LINE_INPUT_H
#define CLOCHER_CLI_LINE_INPUT_H

#include "cli.h"
#include "clocher/status.h"
#include "clocher/text.h"

#include <stdbool.h>
#include <stdio.h>

typedef struct line_input line_input;

typedef enum line_result { LINE_OK, LINE_END, LINE_INTERRUPTED, LINE_FAILED } line_result;

typedef struct line_options {
  const cli_context *context; /* for logs */
  FILE *prompts;            /* where prompts and the edited line are shown: a terminal; NULL: nobody types */
  int wake;                 /* of cli_signals_collect, or -1 */
  const char *history;      /* path of the history file, or NULL: none is read or written */
  const char *const *words; /* NULL-terminated; Tab completes a line that begins like one. May be NULL */
} line_options;

/* Reads stdin. The options are copied, what they point to is borrowed. */
ie_status line_input_open(const line_options *options, line_input **out, ie_error *error);
void line_input_close(line_input *input);

/* Whether lines are edited; false: libedit was not built in. */
bool line_input_edits(const line_input *input);

/* Replaces *line by the next line, UTF-8 without its end; *more: the next one belongs to it. LINE_FAILED: *error says
 * why. */
line_result line_input_read(line_input *input, const char *prompt, ie_bytes *line, bool *more,
                            ie_error *error);

#endif
