#include "run_rows.h"

#include "out.h"
#include "signals.h"

#include <stdlib.h>
#include <string.h>

/* --- Text ----------------------------------------------------------------------------------------------------- */

/* The row in front streams; the others keep their text. */
static ie_status text_show(run_rows *r, size_t row, const char *text, size_t size, ie_error *error) {
  if (size == 0 || r->output != RUN_TEXT) return IE_OK;
  if (row != r->front) return ie_bytes_append(&r->row[row].pending, text, size, error);
  r->row[row].shown = true;
  r->text_ends_line = text[size - 1] == '\n';
  if (cli_out_write(r->context, text, size)) cli_out_flush(r->context);
  return IE_OK;
}

/* --- One row in front ----------------------------------------------------------------------------------------- */

static json_t *logprobs_json(const ie_generate_result *g, size_t k) {
  json_t *list = json_array();
  for (size_t i = 0; list && i < g->ids.count; i++) {
    json_t *top = json_array();
    for (size_t j = 0; top && j < k; j++) {
      const ie_logprob *t = &g->top[i * k + j];
      json_array_append_new(top, json_pack("[i, o]", (int)t->id, cli_json_number((double)t->logprob)));
    }
    json_array_append_new(list, json_pack("{s:i, s:o, s:o}", "id", (int)g->logprob[i].id, "logprob",
                                          cli_json_number((double)g->logprob[i].logprob), "top", top));
  }
  if (list && json_array_size(list) != g->ids.count) {
    json_decref(list);
    return NULL;
  }
  return list;
}

/* A row that Ctrl-C or the reader ended was stopped; results know four reasons. */
static const char *reason_name(const run_row *row) {
  if (row->failure) return "error";
  return ie_stop_reason_name(row->result.reason == IE_STOP_CANCELLED ? IE_STOP_STRING : row->result.reason);
}

static ie_status row_json(run_rows *r, size_t row, ie_error *error) {
  const ie_generate_result *g = &r->row[row].result;
  const char *failure = r->row[row].failure;
  size_t k = (size_t)r->options.logprobs;
  json_t *object =
      json_pack("{s:o, s:I, s:I, s:o, s:o, s:s}", "prompt_ids",
                cli_json_ids(cli_row(r->prompts, row), (size_t)cli_row_length(r->prompts, row)),
                "computed_prompt_tokens", (json_int_t)g->computed_prompt_tok, "reused_prompt_tokens",
                (json_int_t)g->reused_prompt_tok, "new_ids", cli_json_ids(g->ids.ids, g->ids.count), "text",
                cli_json_text(g->text.data, g->text.size), "stop_reason", reason_name(&r->row[row]));
  bool ok = object && (k == 0 || json_object_set_new(object, "logprobs", logprobs_json(g, k)) == 0);
  if (ok && failure) ok = json_object_set_new(object, "error", cli_json_text(failure, strlen(failure))) == 0;
  if (ok && !failure && g->reason == IE_STOP_CANCELLED)
    ok = json_object_set_new(object, "cancelled", json_true()) == 0;
  if (!ok || json_array_append(r->json, object) != 0) {
    json_decref(object);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the JSON of row %zu", row + 1);
  }
  json_decref(object);
  return IE_OK;
}

static void ids_print(cli_context *context, const ie_generate_result *g) {
  for (size_t i = 0; i < g->ids.count; i++) cli_out_printf(context, "%s%d", i ? "," : "", (int)g->ids.ids[i]);
  cli_out_write(context, "\n", 1);
  cli_out_flush(context);
}

static ie_status row_count(run_rows *r, const run_row *row, ie_error *error) {
  const ie_generate_result *g = &row->result;
  size_t more = g->ids.count > 1 ? g->ids.count - 1 : 0;
  double *token_s = realloc(r->token_s, (r->token_count + more + 1) * sizeof *token_s);
  if (!token_s)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the times of %zu tokens", more);
  r->token_s = token_s;
  if (more) memcpy(token_s + r->token_count, g->token_s + 1, more * sizeof *token_s);
  r->token_count += more;
  if (r->front == 0) r->ttft_s = g->ids.count ? g->first_token_s : g->prefill_s;
  r->reused_tok += g->reused_prompt_tok;
  r->new_tok += (int64_t)g->ids.count;
  r->last_reason = row->failure ? "error" : ie_stop_reason_name(g->reason);
  return IE_OK;
}

/* Reports the row in front, which has ended. */
static ie_status row_report(run_rows *r, ie_error *error) {
  run_row *row = &r->row[r->front];
  bool several = r->prompts->count > 1;
  /* Several rows stay at their lines; one that failed has no line of its own. */
  bool nothing = row->failure && !several;
  if (r->output == RUN_TEXT && !r->text_ends_line && (!nothing || row->shown)) {
    cli_out_write(r->context, "\n", 1);
    cli_out_flush(r->context);
  }
  ie_status status = row_count(r, row, error);
  if (status == IE_OK && r->output == RUN_JSON) status = row_json(r, r->front, error);
  if (status == IE_OK && r->output == RUN_IDS && !nothing) ids_print(r->context, &row->result);
  if (row->failure && several)
    cli_failf(r->context, "row %zu: %s", r->front + 1, row->failure);
  else if (row->failure)
    cli_failf(r->context, "%s", row->failure);
  return status;
}

/* Reports the rows from the front on that have ended, and lets the next one stream. */
static ie_status front_move(run_rows *r, ie_error *error) {
  ie_status status = IE_OK;
  while (status == IE_OK && r->front < r->prompts->count && r->row[r->front].ended) {
    /* requests begin in their order: behind one that never began, none did */
    if (!r->row[r->front].begun && r->front > 0) return IE_OK;
    status = row_report(r, error);
    if (++r->front == r->prompts->count || status != IE_OK) break;
    run_row *next = &r->row[r->front];
    r->text_ends_line = false;
    status = text_show(r, r->front, next->pending.data, next->pending.size, error);
    ie_bytes_free(&next->pending);
  }
  return status;
}

/* --- All rows ------------------------------------------------------------------------------------------------- */

typedef struct stop_question {
  run_rows *rows;
  const ie_scheduler *scheduler;
} stop_question;

/* Asked between layers: Ctrl-C, or nobody reads any more. Shows how far long prompts are. */
static bool stop_wanted(void *arg) {
  stop_question *q = arg;
  if (!q->rows->text_begun)
    cli_progress_set(&q->rows->progress, (uint64_t)ie_scheduler_work_done(q->scheduler).prompt_tok);
  return cli_interrupted() || !cli_out_ok(q->rows->context);
}

static ie_status rows_submit(run_rows *r, ie_scheduler *scheduler, ie_error *error) {
  ie_status status = IE_OK;
  for (size_t i = 0; status == IE_OK && i < r->prompts->count; i++) {
    ie_generate_options o = r->options;
    o.prompt = cli_row(r->prompts, i);
    o.prompt_count = cli_row_length(r->prompts, i);
    o.row = i;
    status = ie_scheduler_submit(scheduler, &o, &r->row[i].request, error);
  }
  return status;
}

static ie_status event_take(run_rows *r, const ie_event *event, ie_error *error) {
  size_t row = (size_t)(event->request - r->row[0].request); /* submitted one after the other */
  if (event->id >= 0 && !r->text_begun) {
    cli_progress_clear(&r->progress);
    r->text_begun = true;
  }
  ie_status status = text_show(r, row, event->text, event->size, error);
  if (status != IE_OK || !event->ended) return status;
  r->row[row].ended = true;
  r->row[row].begun = event->begun || event->status != IE_OK;
  r->row[row].sequence = event->sequence;
  if (event->status != IE_OK) {
    r->failed++;
    r->row[row].failure = strdup(event->error.message);
    if (!r->row[row].failure)
      return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the message of row %zu", row + 1);
  } else {
    r->row[row].result = *event->result;
    *event->result = (ie_generate_result){0};
  }
  return front_move(r, error);
}

ie_status run_rows_generate(run_rows *r, ie_error *error) {
  ie_scheduler *scheduler;
  ie_status status = ie_scheduler_new(r->state, &scheduler, error);
  if (status != IE_OK) return status;
  r->row = calloc(r->prompts->count + 1, sizeof *r->row);
  r->json = json_array();
  if (!r->row || !r->json) status = ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for rows");
  if (status == IE_OK) status = rows_submit(r, scheduler, error);
  stop_question question = {r, scheduler};
  cli_progress_start(&r->progress, r->context, "prompt", r->prompts->ids.count, "tok");
  while (status == IE_OK && ie_scheduler_running(scheduler) + ie_scheduler_waiting(scheduler) > 0) {
    const ie_event *events;
    size_t count = ie_scheduler_step(scheduler, stop_wanted, &question, &events);
    for (size_t i = 0; status == IE_OK && i < count; i++) status = event_take(r, &events[i], error);
  }
  cli_progress_clear(&r->progress);
  /* What is not about one row ends all; the text of the one in front ends with a line. */
  if (status != IE_OK && r->output == RUN_TEXT && r->text_begun && !r->text_ends_line)
    cli_out_write(r->context, "\n", 1);
  r->work = ie_scheduler_work_done(scheduler);
  ie_scheduler_free(scheduler);
  return status;
}

void run_rows_free(run_rows *r) {
  for (size_t i = 0; r->row && i < r->prompts->count; i++) {
    ie_bytes_free(&r->row[i].pending);
    free(r->row[i].failure);
    ie_generate_result_free(&r->row[i].result);
  }
  free(r->row);
  free(r->token_s);
  json_decref(r->json);
}
