/* Private to line_input.c: the editor of a line (libedit), fed with keys by its owner. Without libedit there is none. */
#ifndef CLOCHER_CLI_LINE_EDIT_H
#define CLOCHER_CLI_LINE_EDIT_H

#include "clocher/text.h"
#include "signals.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { LINE_KEY_END = -1, LINE_KEY_INTERRUPTED = -2 };

typedef struct line_edit line_edit;

/* key(arg) gives the next code point, or LINE_KEY_... . NULL: not built, or memory is out. words as in line_options. */
line_edit *line_edit_open(FILE *prompts, int32_t (*key)(void *arg), void *arg, const char *const *words);
void line_edit_close(line_edit *edit);

/* Appends the line to *line. False: no line, because a key was LINE_KEY_..., Ctrl-D was typed or memory is out. */
bool line_edit_read(line_edit *edit, const char *prompt, ie_bytes *line);
/* The newest line of the history. */
void line_edit_remember(line_edit *edit, const char *line);
/* The terminal changed its size, or the program goes on after a stop: draws again. */
void line_edit_refresh(line_edit *edit, cli_signal_news news);

#endif
