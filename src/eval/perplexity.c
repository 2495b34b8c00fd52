#include "eval/perplexity.h"

#include "base/exp.h"
#include "base/size.h"
#include "engine/state.h"
#include "models/arch.h"
#include "tensor/device.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* --- Windows ----------------------------------------------------------------------------------------------- */

static int64_t window_length(const ie_perplexity_options *o) {
  return ie_min_i64(o->window_tok, o->count);
}

int64_t ie_perplexity_windows(int64_t count, int64_t window_tok, int64_t stride_tok) {
  if (count < 2 || window_tok < 2 || stride_tok < 1 || stride_tok > window_tok) return 0;
  if (count <= window_tok) return 1;
  int64_t more = count - window_tok; /* tokens behind the first window */
  int64_t windows = 1 + more / stride_tok + (more % stride_tok > 0);
  /* Windows that do not overlap may leave one token, which nothing predicts. */
  return stride_tok == window_tok && count % window_tok == 1 ? windows - 1 : windows;
}

ie_window ie_window_at(const ie_perplexity_options *o, int64_t first, int64_t count, int64_t index) {
  int64_t length = ie_min_i64(o->window_tok, count), begin = index * o->stride_tok;
  int64_t end = count - begin < length ? count : begin + length;
  int64_t seen = index > 0 ? begin - o->stride_tok + length : 0;
  return (ie_window){
      .begin = first + begin, .end = first + end, .target = first + ie_max_i64(seen, begin + 1)};
}

static int64_t document_begin(const ie_perplexity_options *o, int64_t d) {
  return o->document ? o->document[d] : 0;
}

static int64_t document_count(const ie_perplexity_options *o, int64_t d) {
  bool last = !o->document || d + 1 == o->documents;
  return (last ? o->count : o->document[d + 1]) - document_begin(o, d);
}

/* --- One position ------------------------------------------------------------------------------------------ */

enum { LANES = 8 };

/* Sum of e^(x - max) (x - y): fixed lanes, so that every compiler adds in the same order. */
static double gap_sum(const float *x, const float *y, int64_t n, float max) {
  double lane[LANES] = {0};
  int64_t whole = n - n % LANES;
  for (int64_t i = 0; i < n; i++) {
    float e = ie_expf(x[i] - max);
    /* What has no probability adds nothing, even where y has none either. */
    if (e > 0.0f) lane[i < whole ? i % LANES : i - whole] += (double)e * ((double)x[i] - (double)y[i]);
  }
  double sum = 0;
  for (int i = 0; i < LANES; i++) sum += lane[i];
  return sum;
}

ie_position_score ie_position_measure(const ie_kernels *kernels, const float *logits, const float *other,
                                      int64_t vocab, int32_t target) {
  int64_t best, other_best;
  float max = kernels->max(logits, vocab, &best);
  double sum = kernels->exp_sum(logits, vocab, max), log_sum = (double)max + log(sum);
  ie_position_score score = {.nll = log_sum - (double)logits[target]};
  if (!other) return score;
  float other_max = kernels->max(other, vocab, &other_best);
  double other_log_sum = (double)other_max + log(kernels->exp_sum(other, vocab, other_max));
  double kl = gap_sum(logits, other, vocab, max) / sum - (log_sum - other_log_sum);
  score.kl = kl < 0 ? 0 : kl; /* rounding; NaN passes */
  score.agree = best == other_best;
  return score;
}

/* --- All of them ------------------------------------------------------------------------------------------- */

/* A position whose logits a forward gives. */
typedef struct scored {
  const float *logits, *other;
  int32_t target;
  ie_position_score score;
} scored;

typedef struct job {
  const ie_perplexity_options *o;
  ie_state *state, *against; /* against NULL: one model */
  int64_t vocab, windows;
  ie_window *window_at;                   /* (windows) */
  int64_t room, logits, chunk, sequences; /* of a forward: what both states hold */
  int64_t window, position;               /* the next token to compute, its position in its window */
  ie_advance *parts, *other_parts;        /* (sequences) of the forward at hand */
  int64_t *first;                         /* (sequences) the text's token that each part begins with */
  int64_t part_count;
  scored *scored; /* (logits) */
  double *kl;     /* (targets); NULL without a second model */
  int64_t targets, tokens, agreed;
  double nll_sum, kl_sum;
  int64_t bytes, done, total;
} job;

/* Fills a forward with tokens from the next one on, window after window, each in a sequence of its own: those of windows
 * that follow one another are different. The last token of a window is a target only, and not computed. */
static ie_status parts_choose(job *j, ie_error *error) {
  int64_t room = j->room, logits = j->logits;
  ie_status status = IE_OK;
  j->part_count = 0;
  while (status == IE_OK && j->window < j->windows && j->part_count < j->sequences && room > 0 &&
         logits > 0) {
    ie_window w = j->window_at[j->window];
    int64_t inputs = w.end - w.begin - 1, wanted_from = w.target - w.begin - 1;
    int64_t at = j->position, count = ie_min_i64(inputs - at, ie_min_i64(room, j->chunk));
    int64_t wanted = ie_max_i64(0, at + count - ie_max_i64(at, wanted_from));
    if (wanted > logits) {
      count -= wanted - logits;
      wanted = logits;
    }
    ie_advance part = {.sequence = j->window % j->sequences,
                       .ids = j->o->ids + w.begin + at,
                       .count = count,
                       .wanted = wanted};
    if (at == 0) status = ie_state_rollback(j->state, part.sequence, 0, error);
    if (at == 0 && status == IE_OK && j->against)
      status = ie_state_rollback(j->against, part.sequence, 0, error);
    j->first[j->part_count] = w.begin + at;
    j->parts[j->part_count] = part;
    if (j->against) j->other_parts[j->part_count] = part;
    j->part_count++;
    room -= count;
    logits -= wanted;
    j->position += count;
    if (j->position < inputs) break;
    j->position = 0;
    j->window++;
  }
  return status;
}

static bool stop_wanted(void *arg) {
  job *j = arg;
  return j->o->progress && !j->o->progress(j->o->user, j->done, j->total);
}

static void score_rows(void *arg, int thread, int64_t begin, int64_t end) {
  job *j = arg;
  (void)thread;
  const ie_kernels *kernels = &j->state->ctx.device->kernels;
  for (int64_t i = begin; i < end; i++) {
    scored *s = &j->scored[i];
    s->score = ie_position_measure(kernels, s->logits, s->other, j->vocab, s->target);
  }
}

static ie_status score_add(job *j, int64_t token, const ie_position_score *score, ie_error *error) {
  if (!isfinite(score->nll))
    return ie_error_set(error, IE_NUMERIC,
                        "token %" PRId64
                        " of the text: -ln of its probability is %g, expected a finite number",
                        token, score->nll);
  if (!isfinite(score->kl))
    return ie_error_set(error, IE_NUMERIC,
                        "token %" PRId64
                        " of the text: the divergence of the models is %g, expected a finite number",
                        token, score->kl);
  j->nll_sum += score->nll;
  if (j->kl) j->kl[j->tokens] = score->kl;
  j->kl_sum += score->kl;
  j->agreed += score->agree;
  if (j->o->id_bytes) j->bytes += j->o->id_bytes[token];
  j->tokens++;
  return IE_OK;
}

/* Measures the positions of the forward that was computed, in the order of the text. */
static ie_status forward_score(job *j, ie_error *error) {
  int64_t n = 0;
  for (int64_t i = 0; i < j->part_count; i++) {
    const ie_advance *part = &j->parts[i];
    for (int64_t r = 0; r < part->wanted; r++)
      j->scored[n++] = (scored){.logits = part->logits + r * j->vocab,
                                .other = j->against ? j->other_parts[i].logits + r * j->vocab : NULL,
                                .target = part->ids[part->count - part->wanted + r + 1]};
  }
  ie_team_for(j->state->ctx.device->team, n, /*chunk=*/1, score_rows, j);
  ie_status status = IE_OK;
  for (int64_t i = 0, at = 0; i < j->part_count; i++) {
    const ie_advance *part = &j->parts[i];
    int64_t token = j->first[i] + part->count - part->wanted + 1;
    for (int64_t r = 0; status == IE_OK && r < part->wanted; r++)
      status = score_add(j, token + r, &j->scored[at++].score, error);
  }
  return status;
}

static ie_status forward(job *j, ie_state *state, ie_advance *parts, ie_error *error) {
  ie_forward_options o = {.cancelled = stop_wanted, .cancelled_arg = j};
  ie_status status = ie_state_advance(state, parts, j->part_count, &o, error);
  for (int64_t i = 0; status == IE_OK && i < j->part_count; i++) j->done += parts[i].count;
  return status;
}

static ie_status options_check(const ie_state *state, const ie_perplexity_options *o, ie_error *error) {
  if (o->count < 2)
    return ie_error_set(
        error, IE_INVALID_ARGUMENT,
        "perplexity of %" PRId64 " tokens: expected 2 or more, as the first one is not predicted", o->count);
  if (o->window_tok < 2 || o->stride_tok < 1 || o->stride_tok > o->window_tok)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "windows of %" PRId64 " tokens moved by %" PRId64
                        ": expected 2 or more, moved by 1 to as many",
                        o->window_tok, o->stride_tok);
  if (o->document && (o->documents < 1 || o->document[0] != 0))
    return ie_error_set(error, IE_INVALID_ARGUMENT, "perplexity: the first document is to begin at 0");
  for (int64_t d = 0; o->document && d < o->documents; d++)
    if (document_count(o, d) < 0)
      return ie_error_set(error, IE_INVALID_ARGUMENT,
                          "perplexity: document %" PRId64 " ends before it begins", d);
  int64_t needed = window_length(o) - 1;
  if (state->context < needed)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "windows of %" PRId64 " tokens: the state holds %" PRId64 " positions, %" PRId64
                        " are needed",
                        window_length(o), state->context, needed);
  return IE_OK;
}

/* The windows of all documents, and what they come to. */
static ie_status windows_make(job *j, ie_error *error) {
  const ie_perplexity_options *o = j->o;
  int64_t documents = o->document ? o->documents : 1;
  for (int64_t d = 0; d < documents; d++)
    j->windows += ie_perplexity_windows(document_count(o, d), o->window_tok, o->stride_tok);
  if (j->windows == 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "perplexity: no document of 2 tokens or more, as the first one is not predicted");
  j->window_at = calloc((size_t)j->windows, sizeof *j->window_at);
  if (!j->window_at)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %" PRId64 " windows", j->windows);
  for (int64_t d = 0, at = 0; d < documents; d++) {
    int64_t count = document_count(o, d), n = ie_perplexity_windows(count, o->window_tok, o->stride_tok);
    for (int64_t i = 0; i < n; i++) j->window_at[at++] = ie_window_at(o, document_begin(o, d), count, i);
  }
  for (int64_t i = 0; i < j->windows; i++) {
    ie_window w = j->window_at[i];
    j->targets += w.end - w.target;
    j->total += (w.end - w.begin - 1) * (j->against ? 2 : 1);
  }
  return IE_OK;
}

static ie_status job_make(job *j, ie_error *error) {
  const ie_perplexity_options *o = j->o;
  ie_status status = options_check(j->state, o, error);
  if (status == IE_OK && j->against) status = options_check(j->against, o, error);
  if (status == IE_OK && j->against && j->against->model->info.vocab != j->vocab)
    status = ie_error_set(error, IE_INVALID_ARGUMENT,
                          "models of different vocabularies, %" PRId64 " and %" PRId64 " tokens", j->vocab,
                          j->against->model->info.vocab);
  if (status == IE_OK) status = windows_make(j, error);
  if (status != IE_OK) return status;
  const ie_state *second = j->against ? j->against : j->state;
  j->room = ie_min_i64(ie_state_forward_tok(j->state), ie_state_forward_tok(second));
  j->logits = ie_min_i64(ie_state_forward_logits(j->state), ie_state_forward_logits(second));
  j->chunk = ie_min_i64(ie_state_chunk(j->state), ie_state_chunk(second));
  j->sequences = ie_min_i64(ie_state_sequences(j->state), ie_state_sequences(second));
  j->parts = calloc((size_t)j->sequences, sizeof *j->parts);
  j->other_parts = calloc((size_t)j->sequences, sizeof *j->other_parts);
  j->first = calloc((size_t)j->sequences, sizeof *j->first);
  j->scored = calloc((size_t)j->logits, sizeof *j->scored);
  j->kl = j->against ? calloc((size_t)j->targets, sizeof *j->kl) : NULL;
  if (!j->parts || !j->other_parts || !j->first || !j->scored || (j->against && !j->kl))
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the measures of %" PRId64 " tokens",
                        j->targets);
  return IE_OK;
}

static int double_compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static ie_status job_finish(const job *j, ie_perplexity_result *out, ie_error *error) {
  double n = (double)j->tokens;
  *out = (ie_perplexity_result){.windows = j->windows,
                                .tokens = j->tokens,
                                .bytes = j->bytes,
                                .nll_sum = j->nll_sum,
                                .nll_nats = j->nll_sum / n,
                                .ppl = exp(j->nll_sum / n)};
  if (j->bytes > 0) out->bits_per_byte = j->nll_sum / (0x1.62e42fefa39efp-1 * (double)j->bytes); /* ln 2 */
  if (j->kl) {
    qsort(j->kl, (size_t)j->tokens, sizeof *j->kl, double_compare);
    out->kl_mean = j->kl_sum / n;
    out->kl_p99 = j->kl[(j->tokens * 99 + 99) / 100 - 1];
    out->top1_agreement = (double)j->agreed / n;
  }
  if (isfinite(out->ppl)) return IE_OK;
  ie_status status =
      ie_error_set(error, IE_NUMERIC, "%g nats per token: the perplexity is beyond f64", out->nll_nats);
  *out = (ie_perplexity_result){0};
  return status;
}

ie_status ie_perplexity(ie_state *state, ie_state *against, const ie_perplexity_options *options,
                        ie_perplexity_result *out, ie_error *error) {
  *out = (ie_perplexity_result){0};
  job j = {.o = options, .state = state, .against = against, .vocab = state->model->info.vocab};
  ie_status status = job_make(&j, error);
  while (status == IE_OK && j.window < j.windows) {
    status = parts_choose(&j, error);
    if (status == IE_OK) status = forward(&j, state, j.parts, error);
    if (status == IE_OK && against) status = forward(&j, against, j.other_parts, error);
    if (status == IE_OK) status = forward_score(&j, error);
  }
  if (status == IE_OK) status = job_finish(&j, out, error);
  free(j.window_at);
  free(j.parts);
  free(j.other_parts);
  free(j.first);
  free(j.scored);
  free(j.kl);
  return status;
}
