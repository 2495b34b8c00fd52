#include "chat_repl.h"

#include "out.h"
#include "signals.h"

#include <stdarg.h>
#include <string.h>

void chat_repl_say(const chat_repl *repl, const char *format, ...) {
  va_list args;
  FILE *stream = repl->prompts ? repl->prompts : stderr;
  va_start(args, format);
  vfprintf(stream, format, args);
  va_end(args);
  fputc('\n', stream);
  fflush(stream);
}

/* One answer on its way to the eyes of the user. */
typedef struct turn {
  chat_repl *repl;
  bool shown; /* the view was begun */
} turn;

static void prompt_show(void *arg, int64_t prompt_tok) {
  turn *t = arg;
  int thinking = t->repl->flags.thinking;
  bool show = thinking == CHAT_THINKING_SHOW || (thinking == CHAT_THINKING_AUTO && t->repl->prompts);
  chat_view_begin(&t->repl->view, t->repl->context, show, prompt_tok);
  t->shown = true;
}

static bool event_show(void *arg, const ie_chat_parser *parser, const ie_chat_event *event) {
  return chat_view_event(&((turn *)arg)->repl->view, parser, event);
}

static bool stop_wanted(void *arg) {
  chat_repl *repl = ((turn *)arg)->repl;
  chat_view_prompt(&repl->view, ie_state_length(repl->session.state, 0));
  return cli_interrupted() || !cli_out_ok(repl->context);
}

/* What a reader of the answer cannot see in it. */
static void answer_explain(const chat_repl *repl, const ie_answer *answer) {
  size_t count = ie_conversation_count(repl->session.conversation);
  long long context_tok = ie_state_context(repl->session.state);
  if (answer->reason == IE_STOP_CANCELLED && repl->prompts)
    chat_repl_say(repl, "(stopped)");
  else if (answer->context_full)
    cli_failf(repl->context,
              "the answer is cut: the context of %lld tokens is full; /reset begins anew, --ctx N reserves "
              "more",
              context_tok);
  else if (answer->reason == IE_STOP_LENGTH)
    cli_log(repl->context, "(stopped after %lld tokens: --max-new)", (long long)answer->new_tok);
  else if (count > answer->first && chat_session_called(&repl->session) && repl->prompts)
    chat_repl_say(repl, "(/tool TEXT answers the call)");
  if (count > answer->first) return;
  if (repl->prompts)
    chat_repl_say(repl, "(no answer: this turn was not taken)");
  else if (answer->reason != IE_STOP_CANCELLED)
    cli_log(repl->context, "There is no answer: this turn was not taken.");
}

static ie_status turn_run(chat_repl *repl, const ie_chat_message *message, ie_error *error) {
  chat_session *session = &repl->session;
  turn t = {.repl = repl};
  chat_watcher watcher = {
      .on_prompt = prompt_show, .on_event = event_show, .cancelled = stop_wanted, .arg = &t};
  ie_answer answer = {0};
  ie_status status = chat_session_turn(session, &repl->flags, message, &watcher, &answer, error);
  if (t.shown) chat_view_end(&repl->view);
  if (status == IE_OK) answer_explain(repl, &answer);
  return status;
}

int chat_repl_turn(chat_repl *repl, const ie_chat_message *message) {
  ie_error error = {0};
  if (repl->prompts) cli_signals_take(); /* a Ctrl-C that came before is no answer's */
  ie_status status = turn_run(repl, message, &error);
  if (repl->prompts) cli_signals_take();
  if (status == IE_OK) return CLI_OK;
  if (status != IE_LIMIT) return cli_fail(repl->context, status, &error);
  return cli_failf(repl->context, "%s; this turn was not taken: /reset begins anew, --ctx N reserves more",
                   error.message);
}
