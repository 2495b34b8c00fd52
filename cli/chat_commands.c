/* The commands of a chat: one table, which finds them, explains them and completes them. */
#include "chat_repl.h"

#include <stdlib.h>
#include <string.h>

typedef struct chat_command {
  const char *name;     /* with its slash */
  const char *argument; /* of the help; NULL: takes none. In brackets: may be left out */
  const char *meaning;
  int (*run)(chat_repl *repl, const char *argument);
  bool lines; /* the argument is a text, which may have several */
} chat_command;

static const char *plural(long long n) {
  return n == 1 ? "" : "s";
}

/* --- Settings ------------------------------------------------------------------------------------------------- */

/* What /set changes: flags of the command, without their dashes. */
static const char *const settable[] = {"temperature",        "top-k", "top-p",   "min-p",
                                       "repetition-penalty", "seed",  "max-new", "reasoning-effort",
                                       "thinking",           NULL};

static const cli_option *setting_find(const char *name) {
  for (const char *const *s = settable; *s; s++)
    if (!strcmp(*s, name))
      for (const cli_option *o = chat_flag_table; o->name; o++)
        if (!strcmp(o->name + 2, name)) return o;
  return NULL;
}

static void setting_say(const chat_repl *repl, const cli_option *o) {
  const char *field = (const char *)&repl->flags + o->offset;
  if (o->kind == CLI_FLOAT)
    chat_repl_say(repl, "  %-20s%g", o->name + 2, *(const double *)(const void *)field);
  else if (o->kind == CLI_INT)
    chat_repl_say(repl, "  %-20s%lld", o->name + 2, (long long)*(const int64_t *)(const void *)field);
  else
    chat_repl_say(repl, "  %-20s%s", o->name + 2, o->choices[*(const int *)(const void *)field]);
}

static int set_run(chat_repl *repl, const char *argument) {
  char name[32];
  size_t n = strcspn(argument, " \t=");
  const char *value = argument + n + strspn(argument + n, " \t=");
  if (!argument[0]) {
    for (const char *const *s = settable; *s; s++) setting_say(repl, setting_find(*s));
    if (repl->flags.sampling.greedy) chat_repl_say(repl, "  (--greedy: the most probable token is taken)");
    return CLI_OK;
  }
  snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), argument);
  const cli_option *o = n < sizeof name ? setting_find(name) : NULL;
  if (!o) {
    const char *nearest = cli_nearest(name, settable);
    return cli_failf(repl->context, "/set: unknown setting '%s'%s%s", name,
                     nearest ? "; the nearest is " : "; /set lists them", nearest ? nearest : "");
  }
  char why[512];
  if (!*value) {
    setting_say(repl, o);
  } else if (!cli_option_store(o, &repl->flags, value, why, sizeof why)) {
    cli_failf(repl->context, "/set %s", why + 2);
    return CLI_USAGE;
  } else if (!strcmp(name, "reasoning-effort")) {
    chat_session_effort_log(repl->context, &repl->session, repl->flags.effort);
  } else if (!strcmp(name, "temperature") || !strncmp(name, "top-", 4) || !strcmp(name, "min-p")) {
    repl->flags.sampling.greedy = false; /* --greedy would make it act on nothing */
  }
  if (*value && repl->prompts) setting_say(repl, o);
  return CLI_OK;
}

/* --- The conversation ----------------------------------------------------------------------------------------- */

static int reset_run(chat_repl *repl, const char *argument) {
  (void)argument;
  bool instructed = ie_conversation_instructions(repl->session.conversation) != NULL;
  ie_conversation_truncate(repl->session.conversation, instructed ? 1 : 0);
  chat_repl_say(repl, "The conversation is empty%s.", instructed ? " but for the system message" : "");
  return CLI_OK;
}

static int system_run(chat_repl *repl, const char *argument) {
  const ie_chat_message *now = ie_conversation_instructions(repl->session.conversation);
  ie_error error = {0};
  if (!argument[0]) {
    chat_repl_say(repl, "%s", now ? now->text : "There is no system message.");
    return CLI_OK;
  }
  const char *text = strcmp(argument, "-") ? argument : NULL;
  ie_status status = ie_conversation_instruct(repl->session.conversation, text, &error);
  if (status != IE_OK) return cli_fail(repl->context, status, &error);
  if (repl->prompts) chat_repl_say(repl, "The system message is %s.", text ? "set" : "removed");
  return CLI_OK;
}

static int save_run(chat_repl *repl, const char *argument) {
  ie_error error = {0};
  long long n = (long long)ie_conversation_count(repl->session.conversation);
  ie_status status = ie_conversation_save(repl->session.conversation, argument, &error);
  if (status != IE_OK) return cli_fail(repl->context, status, &error);
  chat_repl_say(repl, "%lld message%s saved.", n, plural(n));
  return CLI_OK;
}

/* Messages are the same in all formats, but who loads a talk with another model should know. */
static void saved_format_log(const chat_repl *repl) {
  const char *own = ie_chat_format_name(repl->session.format);
  const char *saved = ie_conversation_saved_format(repl->session.conversation);
  const ie_chat_format *format;
  ie_error error = {0};
  if (!saved || !strcmp(saved, own)) return;
  bool known = ie_chat_format_find(saved, &format, &error) == IE_OK;
  cli_log(repl->context, "clocher: saved in another chat format (%s); the model reads it in its own, %s",
          known ? saved : "unknown here", own);
}

static int load_run(chat_repl *repl, const char *argument) {
  ie_error error = {0};
  ie_status status = ie_conversation_load(repl->session.conversation, argument, &error);
  if (status != IE_OK) {
    cli_fail(repl->context, status, &error);
    cli_log(repl->context, "The conversation stays as it was.");
    return CLI_FAILED;
  }
  long long n = (long long)ie_conversation_count(repl->session.conversation);
  chat_repl_say(repl, "%lld message%s loaded.", n, plural(n));
  saved_format_log(repl);
  const char *called = chat_session_called(&repl->session);
  if (called) chat_repl_say(repl, "(/tool TEXT answers the call of %s)", called);
  return CLI_OK;
}

static int tool_run(chat_repl *repl, const char *argument) {
  const char *called = chat_session_called(&repl->session);
  if (!called) return cli_failf(repl->context, "/tool: no call waits for an answer");
  char *name = strdup(called); /* the turn changes the list that it stands in */
  if (!name) return cli_failf(repl->context, "out of memory");
  int code = chat_repl_turn(repl, &(ie_chat_message){.role = "tool",
                                                     .name = name,
                                                     .recipient = "assistant",
                                                     .channel = "commentary",
                                                     .text = argument,
                                                     .text_size = strlen(argument)});
  free(name);
  return code;
}

static int stats_run(chat_repl *repl, const char *argument) {
  (void)argument;
  const chat_session *s = &repl->session;
  int64_t prompt_tok = 0;
  ie_error error = {0};
  ie_status status = chat_session_prompt_tok(s, &repl->flags, &prompt_tok, &error);
  if (status != IE_OK) return cli_fail(repl->context, status, &error);
  long long context_tok = ie_state_context(s->state);
  chat_repl_say(repl, "context  %lld of %lld tokens (%.0f%%), %zu messages%s", (long long)prompt_tok,
                context_tok, 100.0 * (double)prompt_tok / (double)context_tok,
                ie_conversation_count(s->conversation),
                prompt_tok < context_tok ? "" : ": no place for a turn; /reset begins anew");
  chat_repl_say(repl, "prompts  %lld tokens read in %.2f s (%.1f tok/s), %lld more reused",
                (long long)s->prompt_tok, s->prefill_s,
                s->prefill_s > 0 ? (double)s->prompt_tok / s->prefill_s : 0, (long long)s->reused_tok);
  chat_repl_say(repl, "answers  %lld with %lld tokens, %.2f tok/s", (long long)s->answers,
                (long long)s->new_tok, s->decode_s > 0 ? (double)s->decode_tok / s->decode_s : 0);
  return CLI_OK;
}

static int exit_run(chat_repl *repl, const char *argument) {
  (void)argument;
  repl->leave = true;
  return CLI_OK;
}

/* --- The table ------------------------------------------------------------------------------------------------ */

static int help_run(chat_repl *repl, const char *argument);

static const chat_command commands[] = {
    {"/help", NULL, "this list", help_run, false},
    {"/reset", NULL, "forget the conversation, keep the system message", reset_run, false},
    {"/system", "[TEXT]", "show the system message, or replace it; - removes it", system_run, true},
    {"/set", "[NAME [VALUE]]", "show the settings, or change one", set_run, false},
    {"/stats", NULL, "tokens, tok/s, how full the context is", stats_run, false},
    {"/save", "FILE", "write the conversation as JSON", save_run, false},
    {"/load", "FILE", "replace the conversation by a saved one", load_run, false},
    {"/tool", "TEXT", "answer the call that the model made", tool_run, true},
    {"/exit", NULL, "leave (also /quit and Ctrl-D)", exit_run, false},
    {"/quit", NULL, NULL, exit_run, false},
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

static int help_run(chat_repl *repl, const char *argument) {
  (void)argument;
  for (size_t i = 0; i < COMMANDS; i++) {
    char usage[32];
    const char *arg = commands[i].argument;
    snprintf(usage, sizeof usage, "%s%s%s", commands[i].name, arg ? " " : "", arg ? arg : "");
    if (commands[i].meaning) chat_repl_say(repl, "  %-22s%s", usage, commands[i].meaning);
  }
  chat_repl_say(repl, "A line that ends in \\ goes on; \"\"\" begins and ends a text of several lines%s.",
                repl->input && line_input_edits(repl->input) ? "; so does Alt-Enter" : "");
  chat_repl_say(repl, "// begins a text that begins with a slash. Ctrl-C stops an answer.");
  return CLI_OK;
}

const char *const *chat_command_names(void) {
  static const char *const names[] = {"/help", "/reset", "/system", "/set",  "/stats", "/save",
                                      "/load", "/tool",  "/exit",   "/quit", NULL};
  _Static_assert(sizeof names / sizeof names[0] == COMMANDS + 1, "a name for each command");
  return names;
}

bool chat_command_takes_lines(const char *text) {
  size_t n = strcspn(text, " \t\n");
  for (size_t i = 0; i < COMMANDS; i++)
    if (strlen(commands[i].name) == n && !memcmp(commands[i].name, text, n)) return commands[i].lines;
  return false;
}

int chat_command_run(chat_repl *repl, char *line) {
  size_t n = strcspn(line, " \t\n");
  char *argument = line + n + strspn(line + n, " \t\n");
  for (size_t end = strlen(argument); end > 0 && strchr(" \t\n", argument[end - 1]); end--)
    argument[end - 1] = '\0';
  line[n] = '\0';
  for (size_t i = 0; i < COMMANDS; i++) {
    const chat_command *c = &commands[i];
    if (strcmp(c->name, line) != 0) continue;
    if (!c->argument && argument[0]) return cli_failf(repl->context, "%s takes no argument", c->name);
    if (c->argument && c->argument[0] != '[' && !argument[0])
      return cli_failf(repl->context, "%s needs %s", c->name, c->argument);
    return c->run(repl, argument);
  }
  const char *nearest = cli_nearest(line, chat_command_names());
  return cli_failf(repl->context, "unknown command %s%s%s (// begins a text with a slash)", line,
                   nearest ? "; the nearest is " : "; /help lists them", nearest ? nearest : "");
}
