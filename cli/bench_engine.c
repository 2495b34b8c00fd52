/* clocher bench --model-dir: decode and prefill beside the ceilings. */
#include "bench.h"
#include "engine.h"
#include "signals.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Under a memory limit: still more than the caches of most processors. */
enum { LIMITED_PROBE_BYTES = 256 << 20 };

typedef struct bench {
  cli_context *context;
  const bench_settings *s;
  cli_engine engine;
  ie_matrix_probe matrix;
  ie_state *state;
  ie_state_options largest; /* of all cases, the one that leaves experts the least of --memory */
  ie_plan largest_plan;     /* no places: none yet */
  size_t state_bytes;       /* of the largest state of all cases */
} bench;

/* What the machine gave just before a case, or just after it. */
typedef struct case_probes {
  ie_memory_probe read;
  ie_matrix_probe matrix; /* of prefill, which the matrix units bind; of decode that of the beginning */
  ie_disk_probe disk;     /* of the weights' largest file, where --memory leaves experts on disk */
} case_probes;

/* One case and what came out of it. */
typedef struct bench_case {
  const char *phase;
  int64_t prompt, depth, batch;
  int64_t neighbour;  /* a processor, or -1 */
  double neighbour_s; /* processor seconds that it took */
  double *tok_s;      /* (runs) */
  double *token_s;    /* (runs * steps) seconds a step */
  size_t runs, steps; /* steps measured in all */
  int64_t step_tok;   /* tokens of one step, all sequences */
  ie_state_work work; /* of all steps */
  ie_dtype kv;
  uint64_t hash; /* of the last logits */
  size_t peak_rss;
  bool peak_whole; /* the system did not let us begin anew: the probe and what was loaded count */
  case_probes before, after;
  double mapped_gb_s; /* of the weights' file, the better of before and after; 0: not measured */
  ie_load load;
  uint64_t disk_bytes; /* read from disk in all steps, and not in vain */
} bench_case;

/* FNV-1a over the bytes. */
static uint64_t logits_hash(const float *logits, int64_t count) {
  const unsigned char *p = (const unsigned char *)logits;
  uint64_t hash = 0xCBF29CE484222325u;
  for (size_t i = 0; i < (size_t)count * sizeof *logits; i++) hash = (hash ^ p[i]) * 0x100000001B3u;
  return hash;
}

/* The ceiling of the class: integer units for int8 where there are some. */
static double matrix_probed(const bench *b, const ie_matrix_probe *p, const char **kind) {
  bool integers = b->engine.info->precision == IE_PRECISION_INT8 && p->int8_tops > 0;
  if (kind) *kind = integers ? p->int8_kind : p->matrix_kind;
  return integers ? p->int8_tops : p->matrix_tflop_s;
}

/* The better of both probes. */
static double matrix_ceiling(const bench *b, const bench_case *c, const char **kind) {
  double before = matrix_probed(b, &c->before.matrix, NULL), after = matrix_probed(b, &c->after.matrix, NULL);
  return matrix_probed(b, before >= after ? &c->before.matrix : &c->after.matrix, kind);
}

static ie_status cancelled(ie_error *error) {
  return ie_error_set(error, IE_CANCELLED, "interrupted");
}

static bool stop_wanted(void *arg) {
  (void)arg;
  return cli_interrupted();
}

/* The disk in the way of the stream. What it reads into takes the place of the other probe's buffer. */
static ie_status disk_probe(const bench *b, ie_disk_probe *out, ie_error *error) {
  ie_disk_probe_options o = {.read_bytes = (size_t)b->s->probe_read, .buffer_bytes = (size_t)b->s->buffer};
  const char *largest = NULL;
  size_t most = 0;
  for (size_t i = 0; i < ie_model_file_count(b->engine.model); i++) {
    size_t bytes;
    const char *path = ie_model_file(b->engine.model, i, &bytes);
    if (bytes < most) continue;
    largest = path;
    most = bytes;
  }
  return ie_probe_disk(largest, &o, out, error);
}

static bool is_streamed(const bench *b, uint64_t *useful_bytes) {
  ie_stream_stats s;
  ie_model_stream_stats(b->engine.model, &s);
  if (useful_bytes) *useful_bytes = s.read_bytes - s.vain_bytes;
  return s.streamed;
}

/* Under a limit the weights' file is left alone: its pages would count. */
static ie_status case_probe(const bench *b, bench_case *c, case_probes *out, ie_error *error) {
  ie_memory_probe_options o = {
      .buffer_bytes = (size_t)b->s->buffer, .read_bytes = (size_t)b->s->probe_read, .cancelled = stop_wanted};
  ie_memory_probe mapped = {0};
  ie_status status = ie_probe_memory(b->engine.device, &o, &out->read, error);
  if (status == IE_OK && !b->context->common.memory)
    status = ie_probe_weights(b->engine.model, &o, &mapped, error);
  c->mapped_gb_s = fmax(c->mapped_gb_s, mapped.read_gb_s);
  if (status == IE_OK && is_streamed(b, NULL)) status = disk_probe(b, &out->disk, error);
  out->matrix = b->matrix;
  if (status == IE_OK && c->prompt) ie_probe_matrix(b->engine.device, &out->matrix);
  return status;
}

/* Appends `count` pseudo-random ids to a sequence. */
static ie_status sequence_fill(const bench *b, int64_t sequence, int64_t count, ie_error *error) {
  if (count == 0) return IE_OK;
  int32_t *ids = malloc((size_t)count * sizeof *ids);
  if (!ids) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %lld ids", (long long)count);
  for (int64_t i = 0; i < count; i++) ids[i] = bench_id(sequence * 1000003 + i, b->engine.info->vocab);
  ie_append_options o = {.cancelled = stop_wanted};
  ie_status status = ie_state_append(b->state, sequence, ids, count, &o, error);
  free(ids);
  return status;
}

/* The tokens that the sequence holds before what is measured. */
static ie_status depth_fill(const bench *b, int64_t sequence, int64_t depth, ie_error *error) {
  if (depth == 0) return IE_OK;
  if (b->s->fill == BENCH_FILL_PREFILL) return sequence_fill(b, sequence, depth, error);
  return ie_state_fill_random(b->state, sequence, depth, error);
}

static void work_add(ie_state_work *sum, const ie_state_work *from, const ie_state_work *to) {
  sum->weight_bytes += to->weight_bytes - from->weight_bytes;
  sum->kv_bytes += to->kv_bytes - from->kv_bytes;
  sum->flop += to->flop - from->flop;
}

/* `steps` tokens in each sequence; their seconds go to c->token_s when the run counts. */
static ie_status decode_once(const bench *b, bench_case *c, int64_t steps, bool counts, ie_error *error) {
  size_t batch = (size_t)c->batch;
  int32_t *sequence = malloc(2 * batch * sizeof *sequence), *ids = sequence ? sequence + batch : NULL;
  const float *logits = NULL;
  if (!sequence) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a batch of %zu", batch);
  ie_status status = IE_OK;
  for (size_t i = 0; status == IE_OK && i < batch; i++) {
    sequence[i] = (int32_t)i;
    status = ie_state_rollback(b->state, (int64_t)i, c->depth, error);
  }
  ie_state_work before = ie_state_work_done(b->state);
  double start = cli_clock_s(), last = start;
  for (int64_t k = 0; status == IE_OK && k < steps; k++) {
    for (size_t i = 0; i < batch; i++) ids[i] = bench_id((int64_t)i * 7919 + k + 1, b->engine.info->vocab);
    status = ie_state_step(b->state, sequence, ids, c->batch, &logits, error);
    if (cli_interrupted()) status = cancelled(error);
    double now = cli_clock_s();
    if (counts) c->token_s[c->steps++] = now - last;
    last = now;
  }
  if (status == IE_OK && counts) {
    ie_state_work after = ie_state_work_done(b->state);
    work_add(&c->work, &before, &after);
    c->tok_s[c->runs++] = (double)(steps * c->batch) / (last - start);
    c->hash = logits_hash(logits, b->engine.info->vocab);
  }
  free(sequence);
  return status;
}

static ie_status prefill_once(const bench *b, bench_case *c, bool counts, ie_error *error) {
  ie_status status = ie_state_rollback(b->state, 0, c->depth, error);
  ie_state_work before = ie_state_work_done(b->state);
  double start = cli_clock_s();
  if (status == IE_OK) status = sequence_fill(b, 0, c->prompt, error);
  double spent = cli_clock_s() - start;
  if (status != IE_OK || !counts) return status;
  ie_state_work after = ie_state_work_done(b->state);
  work_add(&c->work, &before, &after);
  c->token_s[c->steps++] = spent;
  c->tok_s[c->runs++] = (double)c->prompt / spent;
  c->hash = logits_hash(ie_state_logits(b->state), b->engine.info->vocab);
  return IE_OK;
}

static ie_state_options case_options(const bench *b, const bench_case *c) {
  int64_t more = c->prompt ? c->prompt : b->s->tokens;
  return (ie_state_options){
      .context_tok = c->depth + more,
      .sequences = c->batch,
      .chunk_tok = b->s->chunk,
      .rollback_tok = more <= IE_ROLLBACK_DEFAULT_TOK ? 0 : more, /* the state of `run` where it can be */
      .kv = cli_kv_dtype(b->s->kv),
      .logits_tok = 1};
}

static ie_status case_measure(bench *b, bench_case *c, ie_error *error) {
  const bench_settings *s = b->s;
  bool decode = c->prompt == 0;
  int64_t more = decode ? s->tokens : c->prompt;
  ie_state_options o = case_options(b, c);
  c->step_tok = decode ? c->batch : c->prompt;
  c->tok_s = calloc((size_t)s->runs, sizeof *c->tok_s);
  c->token_s = calloc((size_t)(s->runs * more), sizeof *c->token_s);
  if (!c->tok_s || !c->token_s) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the times");
  ie_status status = ie_state_new(b->engine.model, &o, &b->state, error);
  if (status == IE_OK) c->kv = ie_state_kv(b->state);
  for (int64_t i = 0; status == IE_OK && i < c->batch; i++) status = depth_fill(b, i, c->depth, error);
  /* one run that does not count: page faults, clocks, caches */
  if (status == IE_OK)
    status = decode ? decode_once(b, c, more < 4 ? more : 4, false, error) : prefill_once(b, c, false, error);
  if (status == IE_OK) status = case_probe(b, c, &c->before, error);
  c->peak_whole = !ie_usage_reset_peak(); /* the probe's buffer does not count into the run */
  bench_neighbour neighbour = {0};
  ie_load_mark mark;
  uint64_t disk_before, disk_after;
  (void)is_streamed(b, &disk_before);
  ie_load_begin(&mark);
  if (status == IE_OK && c->neighbour >= 0) status = bench_neighbour_start(c->neighbour, &neighbour, error);
  for (int64_t i = 0; status == IE_OK && i < s->runs; i++)
    status = decode ? decode_once(b, c, more, true, error) : prefill_once(b, c, true, error);
  c->neighbour_s = bench_neighbour_stop(&neighbour);
  ie_load_since(&mark, &c->load);
  (void)is_streamed(b, &disk_after);
  c->disk_bytes = disk_after - disk_before;
  ie_usage usage;
  ie_usage_read(&usage);
  c->peak_rss = usage.peak_rss_bytes;
  if (status == IE_OK) status = case_probe(b, c, &c->after, error);
  ie_state_free(b->state);
  b->state = NULL;
  return status;
}

/* --- Results ------------------------------------------------------------------------------------------------ */

typedef struct figures {
  bench_spread tok_s;
  double step_s, bytes, flop; /* of one step: median seconds, mean work */
  double read_gb_s, tera_s;   /* ceilings: the better of before and after */
  double floor_tok_s, ratio, p50_ms, p95_ms;
  double disk_gb_s, disk_ceiling_gb_s, ratio_disk; /* 0: nothing is read from disk */
  double ratio_mapped; /* to what the weights' own memory gives; 0: not measured */
  bool memory_binds, disk_binds, valid;
} figures;

/* Two probes of one ceiling that say the same. */
static bool probes_agree(double a, double b) {
  return fabs(a - b) <= 0.05 * fmax(a, b);
}

static double disk_best(const ie_disk_probe *p) {
  return fmax(p->sequential_gb_s, p->random_gb_s);
}

/* Nobody disturbed the runs, and the probes of the ceiling that binds agree. */
static bool case_valid(const bench *b, const bench_case *c, const figures *f) {
  ie_load others = c->load;
  others.foreign_cpu_s = fmax(0, others.foreign_cpu_s - c->neighbour_s);
  if (!bench_quiet(&others)) return false;
  if (f->disk_binds) return probes_agree(disk_best(&c->before.disk), disk_best(&c->after.disk));
  if (f->memory_binds || !c->prompt) return probes_agree(c->before.read.read_gb_s, c->after.read.read_gb_s);
  return probes_agree(matrix_probed(b, &c->before.matrix, NULL), matrix_probed(b, &c->after.matrix, NULL));
}

/* What was read from disk over the seconds of the steps; the seconds of a step that its bytes need at least. */
static double disk_figures(const bench_case *c, figures *f) {
  double spent = 0;
  f->disk_ceiling_gb_s = fmax(disk_best(&c->before.disk), disk_best(&c->after.disk));
  for (size_t i = 0; i < c->steps; i++) spent += c->token_s[i];
  if (f->disk_ceiling_gb_s <= 0 || spent <= 0) return 0;
  f->disk_gb_s = 1e-9 * (double)c->disk_bytes / spent;
  f->ratio_disk = f->disk_gb_s / f->disk_ceiling_gb_s;
  return 1e-9 * (double)c->disk_bytes / (double)c->steps / f->disk_ceiling_gb_s;
}

static figures figures_of(const bench *b, const bench_case *c) {
  figures f = {.tok_s = bench_spread_of(c->tok_s, c->runs)};
  f.read_gb_s = fmax(c->before.read.read_gb_s, c->after.read.read_gb_s);
  f.tera_s = matrix_ceiling(b, c, NULL);
  f.step_s = f.tok_s.median > 0 ? (double)c->step_tok / f.tok_s.median : 0;
  f.bytes = (double)(c->work.weight_bytes + c->work.kv_bytes) / (double)c->steps;
  f.flop = (double)c->work.flop / (double)c->steps;
  double read_s = f.bytes / (f.read_gb_s * 1e9), compute_s = f.flop / (f.tera_s * 1e12);
  double disk_s = disk_figures(c, &f), least_s = fmax(disk_s, fmax(read_s, compute_s));
  f.memory_binds = read_s >= compute_s;
  f.disk_binds = disk_s > fmax(read_s, compute_s);
  f.floor_tok_s = least_s > 0 ? (double)c->step_tok / least_s : 0;
  f.ratio = f.floor_tok_s > 0 ? f.tok_s.median / f.floor_tok_s : 0;
  if (c->mapped_gb_s > 0 && f.step_s > 0)
    f.ratio_mapped = fmax(f.bytes / (c->mapped_gb_s * 1e9), compute_s) / f.step_s;
  double scale = c->prompt ? 1e3 / (double)c->prompt : 1e3;
  f.p50_ms = scale * cli_quantile(c->token_s, c->steps, 0.5);
  f.p95_ms = scale * cli_quantile(c->token_s, c->steps, 0.95);
  f.valid = case_valid(b, c, &f);
  return f;
}

/* The last part of the directory's path. */
static const char *model_name(const char *dir, char *out, size_t size) {
  char *real = realpath(dir, NULL);
  const char *from = real ? real : dir, *slash = strrchr(from, '/');
  snprintf(out, size, "%s", slash && slash[1] ? slash + 1 : from);
  free(real);
  return out;
}

static json_t *ceiling_json(const bench *b, const bench_case *c, const figures *f) {
  const char *kind;
  double matrix = matrix_ceiling(b, c, &kind);
  const ie_memory_probe *before = &c->before.read, *after = &c->after.read;
  bool first = before->read_gb_s >= after->read_gb_s;
  json_t *o = json_pack("{s:o, s:s, s:o, s:s}", "read_gb_s", cli_json_number(f->read_gb_s), "read_pattern",
                        first ? before->pattern : after->pattern, "matrix_tflop_s", cli_json_number(matrix),
                        "matrix_kind", kind);
  if (o && c->mapped_gb_s > 0) json_object_set_new(o, "mapped_read_gb_s", cli_json_number(c->mapped_gb_s));
  return o;
}

/* Bytes that had to come from disk over the time of the steps, beside what the disk gives. */
static json_t *disk_json(const bench_case *c, const figures *f) {
  const ie_disk_probe *p = &c->before.disk;
  return json_pack("{s:o, s:o, s:o, s:o, s:o, s:i, s:b, s:b}", "gb_s", cli_json_number(f->disk_gb_s),
                   "ceiling_gb_s", cli_json_number(f->disk_ceiling_gb_s), "before_gb_s",
                   cli_json_number(disk_best(p)), "after_gb_s", cli_json_number(disk_best(&c->after.disk)),
                   "ratio", cli_json_number(f->ratio_disk), "depth", p->depth, "direct", p->direct, "uring",
                   p->uring);
}

static const char *filled_name(const bench *b, const bench_case *c) {
  if (c->depth == 0) return "nothing";
  return b->s->fill == BENCH_FILL_PREFILL ? "prefill" : "random";
}

static json_t *case_json(const bench *b, const bench_case *c, const figures *f) {
  char hash[20], name[256];
  snprintf(hash, sizeof hash, "%016llx", (unsigned long long)c->hash);
  json_t *o = json_pack("{s:s, s:I, s:I, s:s, s:I, s:I}", "phase", c->phase, "prompt", (json_int_t)c->prompt,
                        "depth", (json_int_t)c->depth, "filled", filled_name(b, c), "batch",
                        (json_int_t)c->batch, "runs", (json_int_t)c->runs);
  json_t *speed =
      json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "tok_s_median",
                cli_json_number(f->tok_s.median), "tok_s_min", cli_json_number(f->tok_s.min), "tok_s_max",
                cli_json_number(f->tok_s.max), "token_ms_p50", cli_json_number(f->p50_ms), "token_ms_p95",
                cli_json_number(f->p95_ms), "bytes_per_step", cli_json_number(f->bytes), "gb_s",
                cli_json_number(1e-9 * f->bytes / f->step_s), "flop_per_step", cli_json_number(f->flop),
                "tflop_s", cli_json_number(1e-12 * f->flop / f->step_s), "ceiling", ceiling_json(b, c, f),
                "floor_tok_s", cli_json_number(f->floor_tok_s), "ratio", cli_json_number(f->ratio));
  json_t *rest = json_pack(
      "{s:I, s:s, s:o, s:o, s:b, s:o, s:s, s:s, s:i, s:s, s:s}", "peak_rss_bytes", (json_int_t)c->peak_rss,
      "logits_hash", hash, "foreign_cpu_s", cli_json_number(c->load.foreign_cpu_s), "steal_s",
      cli_json_number(c->load.steal_s), "valid", f->valid, "arithmetic",
      cli_arithmetic_json(b->engine.info, c->kv), "device", ie_device_name(b->engine.device), "isa",
      ie_device_isa(b->engine.device), "threads", ie_device_threads(b->engine.device), "model",
      model_name(b->s->model_dir, name, sizeof name), "commit", cli_commit());
  bool ok = o && speed && rest && json_object_update(o, speed) == 0 && json_object_update(o, rest) == 0;
  json_decref(speed);
  json_decref(rest);
  if (ok && c->peak_whole) ok = json_object_set_new(o, "peak_of_process", json_true()) == 0;
  if (ok && f->ratio_mapped > 0)
    ok = json_object_set_new(o, "ratio_mapped", cli_json_number(f->ratio_mapped)) == 0;
  if (ok && f->disk_ceiling_gb_s > 0) ok = json_object_set_new(o, "disk", disk_json(c, f)) == 0;
  if (ok && b->context->common.memory)
    ok = json_object_set_new(o, "stream", cli_stream_json(&b->engine)) == 0;
  if (ok && c->neighbour >= 0)
    ok = json_object_set_new(o, "neighbour", json_integer(c->neighbour)) == 0 &&
         json_object_set_new(o, "neighbour_cpu_s", cli_json_number(c->neighbour_s)) == 0;
  if (ok) return o;
  json_decref(o);
  return NULL;
}

static int case_print(const bench *b, const bench_case *c) {
  figures f = figures_of(b, c);
  if (b->s->json) {
    int code = cli_out_json(b->context, case_json(b, c, &f));
    cli_out_flush(b->context);
    return code;
  }
  const char *kind;
  double ceiling = matrix_ceiling(b, c, &kind);
  cli_out_printf(b->context, "%-7s", c->phase);
  if (c->neighbour >= 0) cli_out_printf(b->context, " neighbour %lld", (long long)c->neighbour);
  if (c->prompt) cli_out_printf(b->context, " prompt %lld", (long long)c->prompt);
  cli_out_printf(b->context, " depth %lld batch %lld: %.2f tok/s (%.2f to %.2f), ", (long long)c->depth,
                 (long long)c->batch, f.tok_s.median, f.tok_s.min, f.tok_s.max);
  if (f.memory_binds)
    cli_out_printf(b->context, "%.2f GB/s, %.0f%% of %.2f", 1e-9 * f.bytes / f.step_s,
                   100e-9 * f.bytes / f.step_s / f.read_gb_s, f.read_gb_s);
  else
    cli_out_printf(b->context, "%.3f TFLOP/s, %.0f%% of %.3f (%s)", 1e-12 * f.flop / f.step_s,
                   100e-12 * f.flop / f.step_s / ceiling, ceiling, kind);
  if (f.disk_ceiling_gb_s > 0)
    cli_out_printf(b->context, ", disk %.2f GB/s, %.0f%% of %.2f (%.2f before, %.2f after)", f.disk_gb_s,
                   100 * f.ratio_disk, f.disk_ceiling_gb_s, disk_best(&c->before.disk),
                   disk_best(&c->after.disk));
  cli_out_printf(b->context, ", peak %.2f GB%s%s\n", 1e-9 * (double)c->peak_rss,
                 c->peak_whole ? " (of all before it too)" : "", f.valid ? "" : "  INVALID: disturbed");
  cli_out_flush(b->context);
  return CLI_OK;
}

/* --- Cases ---------------------------------------------------------------------------------------------------- */

static int case_run(bench *b, bench_case *c) {
  ie_error error = {0};
  cli_log(b->context, "measuring %s: prompt %lld, depth %lld, batch %lld", c->phase, (long long)c->prompt,
          (long long)c->depth, (long long)c->batch);
  ie_status status = case_measure(b, c, &error);
  int code = CLI_OK;
  if (status == IE_OK)
    code = case_print(b, c);
  else
    code = status == IE_CANCELLED ? CLI_INTERRUPTED : cli_fail(b->context, status, &error);
  free(c->tok_s);
  free(c->token_s);
  return cli_out_ok(b->context) ? code : CLI_FAILED;
}

static size_t plan_state_bytes(const ie_plan *plan) {
  return plan->kv_bytes + plan->scratch_bytes;
}

/* Under --memory all cases run with one placement: that of the case which leaves the fewest experts in memory. */
static void largest_note(bench *b, const ie_state_options *o, const ie_plan *plan) {
  const ie_plan *best = &b->largest_plan;
  bool streamed = plan->streamed_bytes_per_tok > 0, best_streamed = best->streamed_bytes_per_tok > 0;
  if (plan_state_bytes(plan) > b->state_bytes) b->state_bytes = plan_state_bytes(plan);
  if (best->places &&
      (streamed < best_streamed || (streamed == best_streamed && plan->minimum_bytes <= best->minimum_bytes)))
    return;
  b->largest = *o;
  b->largest_plan = *plan;
}

/* A case with a larger state, whose forwards look up fewer rows of the embedding, may need less in all; the rows that
 * lie in memory are those of the case that was chosen, so that the difference is kept free. */
static ie_status largest_place(bench *b, ie_error *error) {
  uint64_t *limit = &b->context->common.memory;
  size_t more = b->state_bytes - plan_state_bytes(&b->largest_plan);
  if (*limit && b->largest_plan.streamed_bytes_per_tok > 0) *limit = more < *limit ? *limit - more : 1;
  return cli_memory_place(b->context, &b->engine, &b->largest, error);
}

/* Refuses what could not be measured: all cases are looked at before the first one runs. */
static int case_check(bench *b, bench_case *c) {
  ie_state_options o = case_options(b, c);
  int64_t limit = b->engine.info->context_tok;
  ie_error error = {0};
  ie_plan plan;
  if (o.context_tok > limit)
    return cli_usage(b->context, "--depth %lld and %s %lld do not fit the model's context of %lld",
                     (long long)c->depth, c->prompt ? "--prompt" : "--tokens",
                     (long long)(o.context_tok - c->depth), (long long)limit);
  ie_plan_options p = cli_plan_options(b->context, &o);
  ie_status status = ie_model_plan(b->engine.model, &p, &plan, &error);
  if (status == IE_OK && !b->context->common.memory && plan_state_bytes(&plan) > plan.limit_bytes)
    status = ie_error_set(
        &error, IE_LIMIT,
        "--depth %lld and --batch %lld: %zu bytes of keys and values and %zu of activations "
        "do not fit the %zu of the machine or its control group",
        (long long)c->depth, (long long)c->batch, plan.kv_bytes, plan.scratch_bytes, plan.limit_bytes);
  if (status == IE_OK) status = cli_memory_check(b->context, &b->engine, &o, &error);
  if (status == IE_OK) largest_note(b, &o, &plan);
  return status == IE_OK ? CLI_OK : cli_fail(b->context, status, &error);
}

typedef struct plan_lists {
  bench_list prompts, depths, batches, neighbours;
  bool decode, prefill;
} plan_lists;

static int lists_parse(const bench *b, plan_lists *l) {
  const bench_settings *s = b->s;
  *l = (plan_lists){.decode = !strcmp(s->phase, "decode") || !strcmp(s->phase, "decode,prefill"),
                    .prefill = !strcmp(s->phase, "prefill") || !strcmp(s->phase, "decode,prefill")};
  if (!strcmp(s->phase, "prefill,decode")) l->decode = l->prefill = true;
  if (!l->decode && !l->prefill)
    return cli_usage(b->context, "--phase: expected decode, prefill or decode,prefill; found '%s'", s->phase);
  int code = bench_list_parse(b->context, "--prompt", s->prompt, 1, &l->prompts);
  if (code < 0) code = bench_list_parse(b->context, "--depth", s->depth, 0, &l->depths);
  if (code < 0) code = bench_list_parse(b->context, "--batch", s->batch, 1, &l->batches);
  if (code < 0 && s->neighbour)
    code = bench_list_parse(b->context, "--neighbour", s->neighbour, 0, &l->neighbours);
  return code;
}

/* Does `with` for a case in peace, then with each neighbour. */
static int case_do(bench *b, const plan_lists *l, bench_case c, int (*with)(bench *b, bench_case *c)) {
  int code = CLI_OK;
  for (int i = -1; code == CLI_OK && i < l->neighbours.count; i++) {
    bench_case one = c;
    one.neighbour = i < 0 ? -1 : l->neighbours.item[i];
    code = with(b, &one);
  }
  return code;
}

/* Does `with` for each case of the lists, until one returns another code than CLI_OK. */
static int cases_do(bench *b, const plan_lists *l, int (*with)(bench *b, bench_case *c)) {
  int code = CLI_OK;
  for (int d = 0; l->decode && d < l->depths.count; d++)
    for (int i = 0; code == CLI_OK && i < l->batches.count; i++) {
      bench_case c = {.phase = "decode", .depth = l->depths.item[d], .batch = l->batches.item[i]};
      code = case_do(b, l, c, with);
    }
  for (int d = 0; l->prefill && d < l->depths.count; d++)
    for (int i = 0; code == CLI_OK && i < l->prompts.count; i++) {
      bench_case c = {
          .phase = "prefill", .depth = l->depths.item[d], .batch = 1, .prompt = l->prompts.item[i]};
      code = case_do(b, l, c, with);
    }
  return code;
}

/* Under a limit the probe's buffer is small, and what it takes is not the model's. -1, or an exit code. */
static int probe_fit(cli_context *context, bench_settings *s) {
  if (!context->common.memory) return -1;
  if (!s->buffer) s->buffer = LIMITED_PROBE_BYTES;
  if (s->buffer >= context->common.memory)
    return cli_usage(context, "--probe-buffer %llu does not fit --memory %llu", (unsigned long long)s->buffer,
                     (unsigned long long)context->common.memory);
  context->common.memory -= s->buffer;
  cli_log(context, "clocher: the probe's buffer takes %llu bytes of --memory; %llu are left for the model",
          (unsigned long long)s->buffer, (unsigned long long)context->common.memory);
  return -1;
}

int bench_engine(cli_context *context, const bench_settings *given) {
  bench_settings s = *given;
  bench b = {.context = context, .s = &s};
  plan_lists lists;
  ie_error error = {0};
  cli_pretranspose_log(context, s.pretranspose);
  int code = lists_parse(&b, &lists);
  if (code < 0) code = probe_fit(context, &s);
  if (code >= 0) return code;
  ie_status status = cli_engine_open(context, s.model_dir, /*plan_only=*/false, &b.engine, &error);
  code = status == IE_OK ? cases_do(&b, &lists, case_check) : cli_fail(context, status, &error);
  if (code == CLI_OK && largest_place(&b, &error) != IE_OK) code = cli_fail(context, error.status, &error);
  if (code == CLI_OK) {
    ie_probe_matrix(b.engine.device, &b.matrix);
    cli_signals_poll();
    code = cases_do(&b, &lists, case_run);
  }
  ie_state_free(b.state);
  cli_engine_close(&b.engine);
  return code;
}
