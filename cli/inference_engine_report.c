/* The one line of JSON. The keys of the documents come first, in their order; then what they lack. */
#include "clocher/bench.h"
#include "inference_engine.h"
#include "out.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

/* Sums over rounds. */
typedef struct totals {
  int64_t tokens, rounds_done, prompt_tok;
  double window_s, prefill_s, decode_s, touch_s;
  uint64_t hits, misses;
  bool expected_all_ok;
} totals;

static double ratio(double a, double b) {
  return b > 0 ? a / b : 0;
}

/* Each of `positions` positions of a prompt puts one key into each layer's cache (a miss) and reads those before it
 * (hits): layers x P misses and layers x P (P - 1) / 2 hits. */
static void round_add(totals *t, const infer_prompt *p, const infer_round *round, uint64_t layers) {
  uint64_t positions = (uint64_t)round->positions;
  t->expected_all_ok = t->expected_all_ok && round->expected_ok;
  if (!round->stop_reason) return;
  t->rounds_done++;
  t->prompt_tok += (int64_t)p->ids.count;
  t->tokens += (int64_t)round->ids.count;
  t->window_s += round->window_s;
  t->prefill_s += round->prefill_s;
  t->decode_s += round->decode_s;
  t->touch_s += round->touch_s;
  t->misses += layers * positions;
  if (positions > 0) t->hits += layers * (positions * (positions - 1) / 2);
}

static totals prompt_totals(const infer_job *job, const infer_prompt *p) {
  totals t = {.expected_all_ok = p->expected_present};
  uint64_t layers = job->engine.info ? (uint64_t)job->engine.info->layers : 0;
  for (int64_t r = 0; r < job->prompts.rounds; r++) round_add(&t, p, &p->rounds[r], layers);
  return t;
}

static totals all_totals(const infer_job *job) {
  totals all = {0};
  for (size_t i = 0; i < job->prompts.count; i++) {
    totals t = prompt_totals(job, &job->prompts.items[i]);
    all.tokens += t.tokens;
    all.rounds_done += t.rounds_done;
    all.prompt_tok += t.prompt_tok;
    all.prefill_s += t.prefill_s;
    all.decode_s += t.decode_s;
    all.touch_s += t.touch_s;
    all.hits += t.hits;
    all.misses += t.misses;
  }
  /* the times of prompts that were computed together overlap */
  if (job->state && ie_state_sequences(job->state) > 1) {
    all.prefill_s = job->prefill_s;
    all.decode_s = job->decode_s;
  }
  return all;
}

/* A key whose value could not be made is an error of the whole. */
static bool put(json_t *object, const char *key, json_t *value) {
  return value && json_object_set_new(object, key, value) == 0;
}

static json_t *reported_ids(const infer_job *job, const ie_ids *ids) {
  const infer_flags *f = job->setup.flags;
  size_t n = ids->count, most = (size_t)f->report_tokens_max;
  if (f->no_report_tokens) return json_array();
  return cli_json_ids(ids->ids, most > 0 && most < n ? most : n);
}

static json_t *id_or_null(const ie_ids *ids, int64_t i) {
  return i < (int64_t)ids->count ? json_integer(ids->ids[i]) : json_null();
}

static json_t *round_json(const infer_job *job, const infer_prompt *p, int64_t r) {
  const infer_round *round = &p->rounds[r];
  json_t *o = json_pack("{s:I, s:I, s:o, s:o, s:o, s:b, s:b}", "round", (json_int_t)r, "tokens_generated",
                        (json_int_t)round->ids.count, "window_time_s", cli_json_number(round->window_s),
                        "prefill_time_s", cli_json_number(round->prefill_s), "decode_time_s",
                        cli_json_number(round->decode_s), "expected_present", p->expected_present,
                        "expected_ok", round->expected_ok);
  bool ok = o != NULL;
  if (ok && round->mismatch_index >= 0)
    ok = put(o, "mismatch_index", json_integer(round->mismatch_index)) &&
         put(o, "expected_at", id_or_null(&p->expected, round->mismatch_index)) &&
         put(o, "actual_at", id_or_null(&round->ids, round->mismatch_index));
  ok = ok && put(o, "tokens", reported_ids(job, &round->ids)) &&
       put(o, "text",
           job->setup.print_text && !job->stub ? cli_json_text(round->text.data, round->text.size)
                                               : json_null()) &&
       put(o, "ttft_s", cli_json_number(round->ttft_s)) &&
       put(o, "touch_time_s", cli_json_number(round->touch_s)) &&
       put(o, "positions", json_integer(round->positions)) &&
       put(o, "stop_reason", json_string(round->stop_reason));
  if (ok) return o;
  json_decref(o);
  return NULL;
}

static json_t *prompt_json(const infer_job *job, size_t i) {
  const infer_prompt *p = &job->prompts.items[i];
  totals t = prompt_totals(job, p);
  char id[24];
  snprintf(id, sizeof id, "0x%016" PRIx64, p->id);
  json_t *rounds = json_array();
  bool ok = rounds != NULL;
  for (int64_t r = 0; ok && r < job->prompts.rounds; r++)
    if (p->rounds[r].stop_reason) ok = json_array_append_new(rounds, round_json(job, p, r)) == 0;
  if (!ok) {
    json_decref(rounds);
    return NULL;
  }
  return json_pack(
      "{s:I, s:o, s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:b, s:b, s:o, s:I}", "prompt_index", (json_int_t)i,
      "prompt", cli_json_text(p->text, p->size), "prompt_id", id, "tokens_generated", (json_int_t)t.tokens,
      "window_time_s", cli_json_number(t.window_s), "prefill_time_s", cli_json_number(t.prefill_s),
      "decode_time_s", cli_json_number(t.decode_s), "tps_true",
      cli_json_number(ratio((double)t.tokens, t.decode_s)), "tps_window",
      cli_json_number(ratio((double)t.tokens, t.window_s)), "expected_present", p->expected_present,
      "expected_all_ok", t.expected_all_ok, "rounds", rounds, "prompt_tokens", (json_int_t)p->ids.count);
}

/* One prompt of the command line in one round: its ids stand at the top too. */
static const infer_round *only_round(const infer_job *job) {
  bool one = !job->setup.flags->prompts_file && job->prompts.count == 1 && job->prompts.rounds == 1;
  return one ? &job->prompts.items[0].rounds[0] : NULL;
}

/* MiB, down: VmHWM, or what getrusage says where there is no /proc. */
static int64_t peak_mib(const infer_job *job) {
  ie_usage usage;
  struct rusage own;
  if (job->stub) return 0; /* the same line on every machine */
  ie_usage_read(&usage);
  if (usage.peak_rss_bytes == 0 && getrusage(RUSAGE_SELF, &own) == 0) return own.ru_maxrss / 1024;
  return (int64_t)(usage.peak_rss_bytes >> 20);
}

static bool head_put(json_t *o, const infer_job *job, const totals *t) {
  const infer_round *only = only_round(job);
  const infer_flags *f = job->setup.flags;
  bool ok = put(o, "tokens_generated", json_integer(t->tokens)) &&
            put(o, "tokens", only && only->stop_reason ? reported_ids(job, &only->ids) : json_array());
  if (ok && job->tokenizer_path)
    ok = put(o, "tokenizer_path", cli_json_text(job->tokenizer_path, strlen(job->tokenizer_path)));
  if (ok && f->expected_tokens)
    ok = put(o, "expected_tokens_file", cli_json_text(f->expected_tokens, strlen(f->expected_tokens)));
  if (ok && only && job->setup.print_text && !job->stub)
    ok = put(o, "text", cli_json_text(only->text.data, only->text.size));
  return ok && put(o, "wall_time_s", cli_json_number(job->wall_s)) &&
         put(o, "prefill_time_s", cli_json_number(t->prefill_s)) &&
         put(o, "decode_time_s", cli_json_number(t->decode_s)) &&
         put(o, "tps_true", cli_json_number(ratio((double)t->tokens, t->decode_s))) &&
         put(o, "tps_window", cli_json_number(ratio((double)t->tokens, job->wall_s))) &&
         put(o, "latency_p50_ms", cli_json_number(1e3 * cli_quantile(job->token_s, job->token_count, 0.5))) &&
         put(o, "latency_p95_ms",
             cli_json_number(1e3 * cli_quantile(job->token_s, job->token_count, 0.95))) &&
         put(o, "rss_peak_mb", json_integer(peak_mib(job))) &&
         put(o, "kv_hits", json_integer((json_int_t)t->hits)) &&
         put(o, "kv_misses", json_integer((json_int_t)t->misses)) &&
         put(o, "prompts_count", json_integer((json_int_t)job->prompts.count)) &&
         put(o, "rounds", json_integer(job->prompts.rounds));
}

static json_t *prompts_json(const infer_job *job) {
  json_t *list = json_array();
  for (size_t i = 0; list && i < job->prompts.count; i++)
    if (json_array_append_new(list, prompt_json(job, i)) != 0) {
      json_decref(list);
      return NULL;
    }
  return list;
}

/* The reason of all rounds; "mixed" when they differ, "none" when there were none. */
static const char *stop_reason(const infer_job *job) {
  const char *reason = NULL;
  for (size_t i = 0; i < job->prompts.count; i++)
    for (int64_t r = 0; r < job->prompts.rounds; r++) {
      const char *one = job->prompts.items[i].rounds[r].stop_reason;
      if (reason && one && strcmp(reason, one) != 0) return "mixed";
      if (one) reason = one;
    }
  return reason ? reason : "none";
}

/* How many prompts were computed together at most. */
static json_int_t batch(const infer_job *job) {
  return job->state ? ie_state_sequences(job->state) : 1;
}

static bool engine_put(json_t *o, const infer_job *job) {
  const cli_engine *e = &job->engine;
  bool ok = put(o, "precision", json_string(job->setup.label)) && put(o, "batch", json_integer(batch(job))) &&
            put(o, "device", json_string(e->device ? ie_device_kind(e->device) : "none")) &&
            put(o, "load_time_s", cli_json_number(e->load_s));
  if (!ok || !e->info) return ok;
  ie_dtype kv = e->info->precision == IE_PRECISION_FP32 ? IE_F32 : IE_F16;
  if (job->state) kv = ie_state_kv(job->state);
  return put(o, "isa", json_string(ie_device_isa(e->device))) &&
         put(o, "threads", json_integer(ie_device_threads(e->device))) &&
         put(o, "arithmetic_class", json_string(ie_precision_name(e->info->precision))) &&
         put(o, "arithmetic", cli_arithmetic_json(e->info, kv)) &&
         put(o, "architecture", json_string(e->info->architecture)) &&
         put(o, "weights_bytes", json_integer((json_int_t)e->info->weights_bytes)) &&
         put(o, "weights_dir", cli_json_text(e->info->dir, strlen(e->info->dir)));
}

/* A product that no integer of the line holds is null. */
static json_t *product(uint64_t a, uint64_t b) {
  uint64_t out;
  bool fits = !__builtin_mul_overflow(a, b, &out) && out <= INT64_MAX;
  return fits ? json_integer((json_int_t)out) : json_null();
}

static bool touch_put(json_t *o, const infer_job *job, const totals *t) {
  const infer_touch *touch = &job->touch;
  return put(o, "ie_bytes_per_token", json_integer((json_int_t)job->setup.touch_bytes)) &&
         put(o, "ie_stride_bytes", json_integer((json_int_t)job->setup.touch_stride)) &&
         put(o, "touch_nominal_bytes", product(touch->asked_bytes, touch->tokens)) &&
         put(o, "touch_span_bytes", json_integer((json_int_t)touch->span_bytes)) &&
         put(o, "touch_tokens", json_integer((json_int_t)touch->tokens)) &&
         put(o, "touch_read_bytes", json_integer((json_int_t)touch->reads)) &&
         put(o, "touch_line_bytes", json_integer((json_int_t)touch->line_bytes)) &&
         put(o, "touch_time_s", cli_json_number(t->touch_s)) &&
         put(o, "touch_verified",
             touch->verify && touch->tokens > 0 ? json_boolean(touch->verified) : json_null());
}

static bool tail_put(json_t *o, const infer_job *job, const totals *t) {
  bool ok = put(o, "ttft_s", cli_json_number(cli_quantile(job->ttft_s, job->ttft_count, 0.5))) &&
            put(o, "prompt_tokens", json_integer(t->prompt_tok)) &&
            put(o, "stop_reason", json_string(stop_reason(job))) && engine_put(o, job) &&
            touch_put(o, job, t) && put(o, "stub", json_boolean(job->stub)) &&
            put(o, "commit", json_string(cli_commit()));
  return ok && (!job->error[0] || put(o, "error", cli_json_text(job->error, strlen(job->error))));
}

json_t *infer_report(const infer_job *job) {
  totals t = all_totals(job);
  json_t *o = json_object();
  if (o && head_put(o, job, &t) && put(o, "prompts", prompts_json(job)) && tail_put(o, job, &t)) return o;
  json_decref(o);
  return NULL;
}
