/* Signals: Ctrl-C, and files that shrink while they are mapped. */
#ifndef CLOCHER_CLI_SIGNALS_H
#define CLOCHER_CLI_SIGNALS_H

#include <stdbool.h>

/* Installs the handlers. SIGINT ends the program with exit 130. SIGBUS at an address inside a mapped file ends it
 * with exit 1 and a message that names the file: that is what a file truncated by someone else looks like. */
void cli_signals_install(void);

/* From now on the first SIGINT only sets a flag, for a command that asks cli_interrupted() often; the second one
 * ends the program with exit 130. */
void cli_signals_poll(void);

/* True once SIGINT has come after cli_signals_poll. May be asked by any thread. */
bool cli_interrupted(void);

#endif
