#include "chat_session.h"

#include "clocher/text.h"
#include "tokenizer_ahead.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* Without --ctx. 8192 tokens of gpt-oss-20b take about 0.25 GB. */
enum { DEFAULT_CONTEXT_TOK = 8192 };

const char *const chat_efforts[] = {"default", "none", "low", "medium", "high", NULL};
const char *const chat_thinking[] = {"auto", "show", "hide", NULL};

static void date_set(chat_session *session) {
  time_t now = time(NULL);
  struct tm day = {0};
  if (!gmtime_r(&now, &day) || strftime(session->date, sizeof session->date, "%Y-%m-%d", &day) == 0)
    snprintf(session->date, sizeof session->date, "1970-01-01");
}

static void plan_log(const cli_context *context, const chat_session *session, const ie_state_options *o) {
  ie_plan plan;
  ie_plan_options options = cli_plan_options(context, o);
  if (ie_model_plan(session->engine.model, &options, &plan, NULL) != IE_OK) return;
  cli_log(
      context,
      "%s, %s: memory %.2f GB (weights %.2f, keys and values %.2f for %lld tokens); %d threads; loaded in "
      "%.1f s",
      session->engine.info->architecture, ie_chat_format_name(session->format),
      1e-9 * (double)plan.peak_bytes, 1e-9 * (double)plan.resident_weights_bytes,
      1e-9 * (double)plan.kv_bytes, (long long)o->context_tok, ie_device_threads(session->engine.device),
      session->engine.load_s);
}

static ie_status state_open(const cli_context *context, const chat_flags *flags, chat_session *session,
                            ie_error *error) {
  int64_t own = session->engine.info->context_tok;
  int64_t context_tok = flags->ctx ? flags->ctx : own < DEFAULT_CONTEXT_TOK ? own : DEFAULT_CONTEXT_TOK;
  ie_state_options o = {.context_tok = context_tok,
                        .sequences = 1,
                        .chunk_tok = flags->chunk,
                        .kv = cli_kv_dtype(flags->kv),
                        .logits_tok = 1};
  ie_status status = cli_memory_place(context, &session->engine, &o, error);
  if (status == IE_OK) status = ie_state_new(session->engine.model, &o, &session->state, error);
  if (status == IE_OK) plan_log(context, session, &o);
  return status;
}

static ie_status format_open(const cli_context *context, const chat_flags *flags, chat_session *session,
                             cli_tokenizer_ahead *ahead, ie_error *error) {
  ie_status status = cli_tokenizer_ahead_take(ahead, &session->tokenizer, error);
  if (status == IE_OK)
    status = ie_chat_format_select(flags->chat_format, flags->model_dir, session->tokenizer, &session->format,
                                   error);
  if (status == IE_OK && !session->tokenizer)
    status = ie_error_set(error, IE_UNSUPPORTED, "%s has no tokenizer: nothing can be said to it",
                          flags->model_dir);
  if (status == IE_OK)
    status = ie_conversation_new(session->format, session->tokenizer, &session->conversation, error);
  if (status == IE_OK) chat_session_effort_log(context, session, flags->effort);
  if (status == IE_OK && flags->system)
    status = ie_conversation_instruct(session->conversation, flags->system, error);
  return status;
}

ie_status chat_session_open(const cli_context *context, const chat_flags *flags, chat_session *out,
                            ie_error *error) {
  *out = (chat_session){0};
  date_set(out);
  cli_tokenizer_ahead ahead = {0};
  cli_tokenizer_ahead_start(context, flags->model_dir, &ahead);
  ie_status status = cli_engine_open(context, flags->model_dir, /*plan_only=*/false, &out->engine, error);
  if (status == IE_OK) status = format_open(context, flags, out, &ahead, error);
  cli_tokenizer_ahead_drop(&ahead);
  if (status == IE_OK) status = state_open(context, flags, out, error);
  return status;
}

void chat_session_close(chat_session *session) {
  ie_conversation_free(session->conversation);
  ie_state_free(session->state);
  ie_tokenizer_free(session->tokenizer);
  cli_engine_close(&session->engine);
  *session = (chat_session){0};
}

static bool effort_acts(const chat_session *session, int effort) {
  if (effort == CHAT_EFFORT_DEFAULT) return true;
  for (const char *const *e = ie_chat_format_efforts(session->format); *e; e++)
    if (!strcmp(*e, chat_efforts[effort])) return true;
  return false;
}

void chat_session_effort_log(const cli_context *context, const chat_session *session, int effort) {
  if (!effort_acts(session, effort))
    cli_log(context, "clocher: reasoning effort %s is ignored: the chat format %s has none such",
            chat_efforts[effort], ie_chat_format_name(session->format));
}

static ie_chat_options chat_options(const chat_session *session, const chat_flags *flags) {
  ie_chat_options o = {.date = session->date};
  if (flags->effort == CHAT_EFFORT_DEFAULT || !effort_acts(session, flags->effort)) return o;
  o.no_thinking = flags->effort == CHAT_EFFORT_NONE;
  if (!o.no_thinking) o.reasoning_effort = chat_efforts[flags->effort];
  return o;
}

ie_status chat_session_prompt_tok(const chat_session *session, const chat_flags *flags, int64_t *out,
                                  ie_error *error) {
  ie_chat_options chat = chat_options(session, flags);
  return ie_conversation_prompt_tok(session->conversation, &chat, out, error);
}

ie_status chat_session_turn(chat_session *session, const chat_flags *flags, const ie_chat_message *message,
                            const chat_watcher *watcher, ie_answer *answer, ie_error *error) {
  ie_chat_options chat = chat_options(session, flags);
  ie_answer_options o = {.chat = &chat,
                         .max_new = flags->max_new,
                         .sample = sampling_params(&flags->sampling),
                         .on_prompt = watcher->on_prompt,
                         .on_event = watcher->on_event,
                         .arg = watcher->arg,
                         .cancelled = watcher->cancelled,
                         .cancelled_arg = watcher->arg};
  ie_status status =
      ie_conversation_turn(session->conversation, message, session->state, 0, &o, answer, error);
  if (status != IE_OK) return status;
  session->answers++;
  session->prompt_tok += answer->computed_prompt_tok;
  session->reused_tok += answer->reused_prompt_tok;
  session->new_tok += answer->new_tok;
  session->decode_tok += answer->new_tok > 1 ? answer->new_tok - 1 : 0;
  session->prefill_s += answer->prefill_s;
  session->decode_s += answer->decode_s;
  return IE_OK;
}

const char *chat_session_called(const chat_session *session) {
  size_t n = ie_conversation_count(session->conversation);
  const ie_chat_message *last = n > 0 ? ie_conversation_at(session->conversation, n - 1) : NULL;
  return last && !strcmp(last->role, "assistant") ? last->recipient : NULL;
}
