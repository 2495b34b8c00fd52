/* One turn after the other: what a line means, and what the user is told about an answer. */
#ifndef CLOCHER_CLI_CHAT_REPL_H
#define CLOCHER_CLI_CHAT_REPL_H

#include "chat_session.h"
#include "chat_view.h"
#include "line_input.h"

typedef struct chat_repl {
  cli_context *context;
  chat_flags flags; /* as /set left them */
  chat_session session;
  chat_view view;
  line_input *input;
  FILE *prompts; /* a terminal: somebody types; NULL: lines of a script */
  bool leave;    /* /exit */
} chat_repl;

/* Adds the message and shows the answer. CLI_OK, or an exit code after a message. Where that fails, and where there is
 * no answer, which is said, the conversation is as it was before. */
int chat_repl_turn(chat_repl *repl, const ie_chat_message *message);

/* What commands answer: on the terminal where prompts stand, else on stderr. */
__attribute__((format(printf, 2, 3))) void chat_repl_say(const chat_repl *repl, const char *format, ...);

/* chat_commands.c: the commands, each "/NAME" of a line. */

/* Runs the command in `line`, which begins with a slash. CLI_OK, or an exit code after a message. */
int chat_command_run(chat_repl *repl, char *line);
/* Whether a text of several lines that begins so is a command: one whose argument is a text. Any other is a turn, such as
 * pasted text that begins with a path. */
bool chat_command_takes_lines(const char *text);
/* Their names with the slash, NULL-terminated. */
const char *const *chat_command_names(void);
/* The flags of `clocher chat`, of chat_flags; /set changes some of them. cmd_chat.c. */
extern const cli_option chat_flag_table[];

#endif
