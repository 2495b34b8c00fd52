#include "engine.h"
#include "out.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *const cli_kv_names[] = {"auto", "f32", "f16", "bf16", "int8", NULL};

const char *const cli_pretranspose_names[] = {"none", "woh", "wxh", "all", NULL};

void cli_pretranspose_log(const cli_context *context, int choice) {
  if (choice > 0)
    cli_log(context, "clocher: --pretranspose %s is ignored: weights are computed where they lie",
            cli_pretranspose_names[choice]);
}

ie_dtype cli_kv_dtype(int choice) {
  static const ie_dtype types[] = {IE_DTYPE_NONE, IE_F32, IE_F16, IE_BF16, IE_I8};
  return types[choice];
}

double cli_clock_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool cli_device_is_cuda(const char *name) {
  if (strncmp(name, "cuda", 4) != 0) return false;
  size_t digits = name[4] == ':' ? strspn(name + 5, "0123456789") : 0;
  return name[4] == '\0' || (digits > 0 && name[5 + digits] == '\0');
}

void cli_device_on_cpu(cli_context *context) {
  if (context->common.device && !strcmp(context->common.device, "auto")) context->common.device = "cpu";
}

ie_status cli_device_open(const cli_context *context, ie_device **out, ie_error *error) {
  ie_device_options options = {.kind = context->common.device,
                               .isa = context->env.isa,
                               .threads = (int)context->common.threads,
                               .affinity = cli_affinities[context->common.affinity]};
  ie_status status = ie_device_open(&options, out, error);
  bool gpu = options.kind && cli_device_is_cuda(options.kind); /* what failed there may be the GPU */
  if (status == IE_DEVICE && context->env.isa && !gpu) {
    status = IE_INVALID_ARGUMENT; /* asked for by CLOCHER_ISA: exit 2 */
    if (error) error->status = status;
  }
  if (status == IE_OK && ie_device_note(*out))
    cli_log(context, "clocher: computing on the CPU: %s", ie_device_note(*out));
  return status;
}

static ie_status model_open(const cli_context *context, ie_device *device, const char *dir,
                            ie_model_options options, cli_engine *out, ie_error *error) {
  static const ie_precision precisions[] = {[CLI_FP32] = IE_PRECISION_FP32,
                                            [CLI_BF16] = IE_PRECISION_BF16,
                                            [CLI_FP16] = IE_PRECISION_FP16,
                                            [CLI_INT8] = IE_PRECISION_INT8};
  static const ie_weights weights[] = {[CLI_WEIGHTS_PUBLISHED] = IE_WEIGHTS_PUBLISHED,
                                       [CLI_WEIGHTS_INT8] = IE_WEIGHTS_INT8,
                                       [CLI_WEIGHTS_INT4] = IE_WEIGHTS_INT4};
  double start = cli_clock_s();
  options.precision = precisions[context->common.precision];
  options.dense_weights = weights[context->common.weights];
  options.deterministic = context->common.deterministic;
  options.limited = context->common.memory > 0;
  ie_status status = ie_model_open(device, dir, &options, &out->model, error);
  if (status != IE_OK) return status;
  out->info = ie_model_describe(out->model);
  out->load_s += cli_clock_s() - start;
  return IE_OK;
}

ie_status cli_engine_open_as(const cli_context *context, const char *dir, ie_model_options options,
                             cli_engine *out, ie_error *error) {
  *out = (cli_engine){0};
  double start = cli_clock_s();
  cli_context own = *context;
  if (options.train || context->common.memory > 0) cli_device_on_cpu(&own);
  ie_status status = cli_device_open(&own, &out->device, error);
  double device_s = cli_clock_s() - start;
  if (status == IE_OK) status = model_open(context, out->device, dir, options, out, error);
  if (status == IE_OK)
    out->load_s += device_s; /* nothing was loaded otherwise: stubs are the same each time */
  return status;
}

ie_status cli_engine_open_beside(const cli_context *context, const char *dir, const cli_engine *first,
                                 cli_engine *out, ie_error *error) {
  *out = (cli_engine){.planned_dir = dir, .planned_on = first->device};
  return model_open(context, first->device, dir, (ie_model_options){.plan_only = true}, out, error);
}

ie_status cli_engine_open_planned(const cli_context *context, const char *dir, ie_model_options options,
                                  cli_engine *out, ie_error *error) {
  ie_model_options plan = options;
  plan.plan_only = true;
  ie_status status = cli_engine_open_as(context, dir, plan, out, error);
  out->planned_dir = dir;
  out->planned_on = out->device;
  out->planned = options;
  return status;
}

ie_status cli_engine_open(const cli_context *context, const char *dir, bool plan_only, cli_engine *out,
                          ie_error *error) {
  if (plan_only) return cli_engine_open_as(context, dir, (ie_model_options){.plan_only = true}, out, error);
  return cli_engine_open_planned(context, dir, (ie_model_options){0}, out, error);
}

/* Opens what was opened for planning once more, for computing. */
static ie_status planned_load(const cli_context *context, cli_engine *engine, ie_error *error) {
  const char *dir = engine->planned_dir;
  if (!dir) return IE_OK;
  ie_model_free(engine->model);
  engine->model = NULL;
  engine->info = NULL;
  engine->planned_dir = NULL;
  ie_status status = model_open(context, engine->planned_on, dir, engine->planned, engine, error);
  if (status == IE_OK && engine->adapter)
    status = ie_model_attach(engine->model, engine->adapter, /*train=*/false, error);
  return status;
}

ie_status cli_engine_adapt(cli_engine *engine, const char *dir, bool train, ie_error *error) {
  if (!dir) return IE_OK;
  ie_status status = ie_adapter_open(dir, &engine->adapter, error);
  return status == IE_OK ? ie_model_attach(engine->model, engine->adapter, train, error) : status;
}

void cli_engine_close(cli_engine *engine) {
  ie_model_free(engine->model);
  ie_adapter_free(engine->adapter);
  ie_device_free(engine->device);
  *engine = (cli_engine){0};
}

ie_status cli_rows_get(const char *ids, const char *ids_file, int64_t vocab, cli_rows *out, ie_error *error) {
  return ids ? cli_rows_parse(ids, vocab, out, error) : cli_rows_read(ids_file, vocab, out, error);
}

ie_status cli_rows_fit(const cli_rows *rows, int64_t max_new, int64_t context_tok, ie_error *error) {
  return cli_tokens_fit(cli_rows_longest(rows), max_new, context_tok, error);
}

ie_status cli_tokens_fit(int64_t longest, int64_t max_new, int64_t context_tok, ie_error *error) {
  if (longest <= context_tok && max_new <= context_tok - longest) return IE_OK;
  if (max_new == 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "%lld tokens do not fit the context of %lld",
                        (long long)longest, (long long)context_tok);
  return ie_error_set(error, IE_INVALID_ARGUMENT,
                      "a prompt of %lld tokens and %lld new ones do not fit the context of %lld",
                      (long long)longest, (long long)max_new, (long long)context_tok);
}

ie_plan_options cli_plan_options(const cli_context *context, const ie_state_options *state) {
  return (ie_plan_options){.state = *state, .memory_bytes = (size_t)context->common.memory};
}

ie_status cli_memory_check(const cli_context *context, const cli_engine *engine,
                           const ie_state_options *state, ie_error *error) {
  if (!context->common.memory) return IE_OK;
  ie_plan plan;
  ie_plan_options options = cli_plan_options(context, state);
  ie_status status = ie_model_plan(engine->model, &options, &plan, error);
  if (status != IE_OK || plan.fits) return status;
  if (plan.limit_bytes < context->common.memory)
    return ie_error_set(
        error, IE_LIMIT,
        "the machine or its control group has %zu bytes, less than --memory %llu, which does not "
        "hold this run: at least %zu are needed",
        plan.limit_bytes, (unsigned long long)context->common.memory, plan.minimum_bytes);
  return ie_error_set(
      error, IE_LIMIT,
      "--memory %llu bytes does not hold this run: at least %zu are needed (keys and values %zu, "
      "activations %zu, other %zu, the rest weights)",
      (unsigned long long)context->common.memory, plan.minimum_bytes, plan.kv_bytes, plan.scratch_bytes,
      plan.other_bytes);
}

ie_status cli_memory_place(const cli_context *context, cli_engine *engine, const ie_state_options *state,
                           ie_error *error) {
  ie_status status = cli_memory_check(context, engine, state, error);
  if (status == IE_OK) status = planned_load(context, engine, error);
  ie_plan_options options = cli_plan_options(context, state);
  return status == IE_OK ? ie_model_place(engine->model, &options, error) : status;
}

json_t *cli_stream_json(const cli_engine *engine) {
  ie_stream_stats s;
  ie_model_stream_stats(engine->model, &s);
  return json_pack("{s:b, s:I, s:I, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:b, s:b}", "streamed",
                   s.streamed, "slots", (json_int_t)s.slots, "slot_bytes", (json_int_t)s.slot_bytes, "hits",
                   (json_int_t)s.hits, "misses", (json_int_t)s.misses, "hit_rate",
                   cli_json_number(cli_hit_rate(&s)), "guessed", (json_int_t)s.expected, "guessed_right",
                   (json_int_t)s.expected_used, "read_bytes", (json_int_t)s.read_bytes, "vain_bytes",
                   (json_int_t)s.vain_bytes, "read_s", cli_json_number(s.read_s), "wait_s",
                   cli_json_number(s.wait_s), "disk_gb_s", cli_json_number(cli_disk_gb_s(&s)), "direct",
                   s.direct, "uring", s.uring);
}

double cli_hit_rate(const ie_stream_stats *s) {
  uint64_t all = s->hits + s->misses;
  return all ? (double)s->hits / (double)all : 0;
}

double cli_disk_gb_s(const ie_stream_stats *s) {
  return s->read_s > 0 ? 1e-9 * (double)s->read_bytes / s->read_s : 0;
}

void cli_stream_print(const cli_context *context, const cli_engine *engine) {
  ie_stream_stats s;
  ie_model_stream_stats(engine->model, &s);
  if (!s.streamed) return;
  cli_log(context,
          "disk: %.1f%% of the experts were in memory (%lld at a time); %.2f GB read at %.2f GB/s, %.2f GB "
          "of it in vain, %.2f s waited%s",
          100 * cli_hit_rate(&s), (long long)s.slots, 1e-9 * (double)s.read_bytes, cli_disk_gb_s(&s),
          1e-9 * (double)s.vain_bytes, s.wait_s, s.direct ? "" : "; this file system has no direct reads");
}

ie_status cli_batch_choose(const cli_context *context, cli_engine *engine, int64_t batch, size_t rows,
                           ie_state_options *state, ie_error *error) {
  int64_t count = rows > 0 ? (int64_t)rows : 1;
  state->sequences = batch < count ? batch : count;
  while (state->sequences > 1 && !cli_given(context, "--batch")) {
    ie_plan plan;
    ie_plan_options options = cli_plan_options(context, state);
    ie_status status = ie_model_plan(engine->model, &options, &plan, error);
    if (status != IE_OK) return status;
    /* Where experts are read from disk, caches of other rows would take their places. */
    if (plan.fits && plan.streamed_bytes_per_tok == 0) break;
    state->sequences = plan.fits ? 1 : state->sequences / 2;
  }
  return cli_memory_place(context, engine, state, error);
}

json_t *cli_arithmetic_json(const ie_model_info *info, ie_dtype kv) {
  static const char *const activations[] = {[IE_PRECISION_FP32] = "f32",
                                            [IE_PRECISION_BF16] = "bf16",
                                            [IE_PRECISION_FP16] = "f16",
                                            [IE_PRECISION_INT8] = "int8"};
  const char *kv_name = kv == IE_F32 ? "f32" : kv == IE_F16 ? "f16" : kv == IE_I8 ? "int8" : "bf16";
  return json_pack("{s:s, s:s, s:s, s:s}", "weights", info->weights, "activations",
                   activations[info->precision], "accumulate", "f32", "kv", kv_name);
}

static int double_compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

double cli_quantile(const double *values, size_t count, double share) {
  if (count == 0) return 0;
  double *sorted = malloc(count * sizeof *sorted);
  if (!sorted) return NAN;
  memcpy(sorted, values, count * sizeof *sorted);
  qsort(sorted, count, sizeof *sorted, double_compare);
  size_t at = (size_t)ceil(share * (double)count);
  double value = sorted[at > 0 ? at - 1 : 0];
  free(sorted);
  return value;
}
