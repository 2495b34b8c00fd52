/* Signals: Ctrl-C, being asked to end, the end while a terminal is used, and files that shrink while they are mapped. */
#ifndef CLOCHER_CLI_SIGNALS_H
#define CLOCHER_CLI_SIGNALS_H

#include <stdbool.h>

/* Installs the handlers. SIGINT ends the program with exit 130. SIGBUS at an address inside a mapped file ends it
 * with exit 1 and a message that names the file: that is what a file truncated by someone else looks like. */
void cli_signals_install(void);

/* From now on the first SIGINT only sets a flag, for a command that asks cli_interrupted() often; the second one
 * ends the program with exit 130. */
void cli_signals_poll(void);

/* The same, and of SIGTERM too: whichever comes first sets the flag, and the next of either ends the program at once with
 * exit 128 + its number. For a command that keeps what it has before it ends. */
void cli_signals_poll_term(void);

/* 128 + the signal that set the flag: the exit code of what ends by it. 130 where none came. */
int cli_signals_code(void);

/* From now on SIGINT only counts, however often it comes: for a command that has another way out. Also notes that the
 * terminal changed its size, and that the program was stopped and goes on. Returns a descriptor that poll() finds
 * readable when something was noted, or -1 when there is none; it stays open. */
int cli_signals_collect(void);

/* From now on SIGTERM, SIGQUIT and SIGHUP give the terminal on stdin back as it is now before they end the program, and
 * write the sequences that end bracketed paste and colours to `prompts` (-1: nowhere). Once, before an editor changes
 * the terminal. */
void cli_signals_terminal(int prompts);

/* What was noted since it was last asked, which is forgotten. */
typedef struct cli_signal_news {
  int interrupts;
  bool resized, continued;
} cli_signal_news;
cli_signal_news cli_signals_take(void);

/* True once SIGINT has come after cli_signals_poll, or since cli_signals_take. May be asked by any thread. */
bool cli_interrupted(void);

#endif
