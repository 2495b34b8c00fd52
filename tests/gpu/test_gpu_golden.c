/* The whole engine on the CUDA device against the CPU and the reference, for every golden model: logits of all positions
 * in classes fp32, bf16 and int8, chunked prompts, quantised weights, int8 caches, greedy ids, hidden states, and decode
 * in a batch; and that replayed graphs give what launched forwards give, to the bit.
 *
 * The same program runs on a GPU, and over the emulator in `make test`: there every model goes through fp32 and bf16, two
 * of them through the rest, with few tokens, since a forward of one token takes a quarter of a second.
 *
 * In class bf16 a product's input lies now and then on the edge between two numbers of bf16, and sums in another order
 * round it the other way; where a router then hesitates between two experts, a row of logits is another one. Instruction
 * sets of the CPU differ likewise. So a row of a mixture may be farther away than the tolerance where a router of it was
 * tied: where its k-th and next logits are closer than what lies between the devices' logits there. None is in emulation. */
#include "cuda/cuda.h"
#include "engine/state.h"
#include "support/golden.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#ifdef CLOCHER_CUDA_EMULATED
enum { EMULATED = 1, NEW_TOK = 6, DEEP_TOK = 66 };
#else
enum { EMULATED = 0, NEW_TOK = 64, DEEP_TOK = 70 };
#endif

static const float gap_decided = 2e-4f; /* of the largest logit; below it two ids are equally good */

typedef struct subject {
  const golden_model *golden;
  ie_device *cpu, *cuda;
} subject;

static ie_model *open_model(ie_device *device, const subject *s, ie_precision precision, ie_weights weights) {
  ie_error error = {0};
  ie_model *model;
  const ie_model_options options = {.precision = precision, .dense_weights = weights};
  if (ie_model_open(device, s->golden->dir, &options, &model, &error) != IE_OK) fail_msg("%s", error.message);
  return model;
}

static ie_state *open_state(ie_model *model, const ie_state_options *options) {
  ie_error error = {0};
  ie_state *state;
  if (ie_state_new(model, options, &state, &error) != IE_OK) fail_msg("%s", error.message);
  return state;
}

/* --- Routers ------------------------------------------------------------------------------------------------ */

enum { ROUTERS_MAX = 64 };
typedef void (*route_fn)(ie_ctx *, ie_tensor *, ie_tensor *, const ie_tensor *, const ie_route_options *);

/* What the routers of a device got in one forward. */
typedef struct router_log {
  route_fn route;
  float *logits[ROUTERS_MAX]; /* (rows, experts) */
  int64_t rows, experts, top_k;
  int count;
} router_log;
static router_log routers[2]; /* the CPU's, the device's */

static void route_noted(router_log *log, ie_ctx *ctx, ie_tensor *expert, ie_tensor *weight,
                        const ie_tensor *logits, const ie_route_options *options) {
  log->route(ctx, expert, weight, logits, options);
  if (ctx->dry || ctx->status != IE_OK || log->count == ROUTERS_MAX) return;
  ie_error error = {0};
  size_t bytes = (size_t)ie_tensor_count(logits) * sizeof(float);
  float *copy = malloc(bytes);
  if (!copy || ie_memory_read(ctx->device, copy, logits->data, bytes, &error) != IE_OK)
    fail_msg("a router's logits: %s", error.message);
  log->rows = logits->shape[0];
  log->experts = logits->shape[1];
  log->top_k = options->top_k;
  log->logits[log->count++] = copy;
}
static void route_cpu(ie_ctx *ctx, ie_tensor *e, ie_tensor *w, const ie_tensor *l,
                      const ie_route_options *o) {
  route_noted(&routers[0], ctx, e, w, l, o);
}
static void route_cuda(ie_ctx *ctx, ie_tensor *e, ie_tensor *w, const ie_tensor *l,
                       const ie_route_options *o) {
  route_noted(&routers[1], ctx, e, w, l, o);
}
static void routers_forget(void) {
  for (int d = 0; d < 2; d++) {
    for (int i = 0; i < routers[d].count; i++) free(routers[d].logits[i]);
    routers[d].count = 0;
  }
}
static void routers_watch(const subject *s) {
  if (s->cpu->ops.route != route_cpu) routers[0].route = s->cpu->ops.route; /* else a test before failed */
  if (s->cuda->ops.route != route_cuda) routers[1].route = s->cuda->ops.route;
  routers_forget();
  s->cpu->ops.route = route_cpu;
  s->cuda->ops.route = route_cuda;
}
static void routers_leave(const subject *s) {
  s->cpu->ops.route = routers[0].route;
  s->cuda->ops.route = routers[1].route;
}
/* How many of x (n) come before number i. */
static int64_t rank_of(const float *x, int64_t n, int64_t i) {
  int64_t rank = 0;
  for (int64_t j = 0; j < n; j++) rank += x[j] > x[i] || (x[j] == x[i] && j < i);
  return rank;
}

/* Whether a row's first router that chose otherwise was tied: its last chosen and its first other logit are no farther
 * apart than the devices' logits move them. */
static bool row_was_tied(int64_t row) {
  const router_log *a = &routers[0], *b = &routers[1];
  for (int i = 0; i < a->count && i < b->count && row < a->rows; i++) {
    const float *x = a->logits[i] + row * a->experts, *y = b->logits[i] + row * a->experts;
    double distance = 0, last = 0, other = 0;
    bool same = true;
    for (int64_t e = 0; e < a->experts; e++) {
      int64_t rank = rank_of(x, a->experts, e);
      same = same && (rank < a->top_k) == (rank_of(y, a->experts, e) < a->top_k);
      distance = fmax(distance, fabs((double)x[e] - (double)y[e]));
      if (rank == a->top_k - 1) last = (double)x[e];
      if (rank == a->top_k) other = (double)x[e];
    }
    if (!same) return last - other <= 2 * distance && distance <= 0.02 * fmax(1, fabs(last));
  }
  return false;
}

/* --- Logits -------------------------------------------------------------------------------------------------- */

/* Rows of V that are farther away than `tolerance` of the largest expected number; *tied: how many more whose router was
 * tied. */
static int64_t rows_beyond(const float *found, const float *expected, int64_t rows, int64_t V,
                           double tolerance, int64_t *tied) {
  double largest = 0;
  int64_t beyond = 0;
  for (int64_t i = 0; i < rows * V; i++) largest = fmax(largest, fabs((double)expected[i]));
  for (int64_t r = 0; r < rows; r++) {
    bool far = false;
    for (int64_t i = r * V; i < (r + 1) * V; i++)
      far |= !(fabs((double)found[i] - (double)expected[i]) <= tolerance * largest);
    bool excused = far && row_was_tied(r);
    *tied += excused;
    beyond += far && !excused;
  }
  return beyond;
}

/* Both devices on all cases; the distance is at most `tolerance` of the largest logit. */
static void devices_agree(const subject *s, ie_precision precision, ie_weights weights, int64_t chunk,
                          double tolerance) {
  ie_model *cpu = open_model(s->cpu, s, precision, weights),
           *cuda = open_model(s->cuda, s, precision, weights);
  bool chooses = precision != IE_PRECISION_FP32 && chunk == 0 && cpu->moe[0].gate_up;
  if (chooses) routers_watch(s);
  for (int i = 0; i < s->golden->count; i++) {
    const golden_case *c = &s->golden->cases[i];
    float *expected = golden_logits(cpu, c->ids, c->T, /*chunk=*/0);
    float *found = golden_logits(cuda, c->ids, c->T, chunk);
    double error = golden_error(found, expected, c->T * c->V);
    int64_t tied = 0, beyond = rows_beyond(found, expected, c->T, c->V, tolerance, &tied);
    free(expected);
    free(found);
    routers_forget();
    if (tied > 0)
      print_message("%s case %d: %lld of %lld rows were another expert's: tied routers\n", s->golden->name, i,
                    (long long)tied, (long long)c->T);
    if (beyond > 0 || tied > (EMULATED ? 0 : c->T / 50))
      fail_msg("%s case %d: %.2e beside %.1e, %lld of %lld rows are farther, %lld by tied routers",
               s->golden->name, i, error, tolerance, (long long)beyond, (long long)c->T, (long long)tied);
  }
  if (chooses) routers_leave(s);
  ie_model_free(cpu);
  ie_model_free(cuda);
}

static void fp32_as_on_the_cpu(void **state) {
  devices_agree(*state, IE_PRECISION_FP32, IE_WEIGHTS_PUBLISHED, /*chunk=*/0, 1e-4);
}
static void fp32_in_chunks(void **state) {
  devices_agree(*state, IE_PRECISION_FP32, IE_WEIGHTS_PUBLISHED, /*chunk=*/EMULATED ? 37 : 5, 1e-4);
}
/* On the tensor cores: all products by mma.sync, or every one by wgmma that can be, however small. */
static void bf16_agrees(const subject *s, ie_cuda_wgmma wgmma) {
  cuda_device *device = cuda_of(s->cuda);
  ie_cuda_wgmma before = device->queue.wgmma;
  cuda_wgmma(device, wgmma);
  if (EMULATED) assert_int_equal(device->queue.wgmma, wgmma);
  devices_agree(s, IE_PRECISION_BF16, IE_WEIGHTS_PUBLISHED, /*chunk=*/0, 1e-2);
  cuda_wgmma(device, before);
}
static void bf16_as_on_the_cpu(void **state) {
  bf16_agrees(*state, IE_CUDA_WGMMA_NEVER);
}
static void bf16_by_wgmma(void **state) {
  bf16_agrees(*state, IE_CUDA_WGMMA_ALWAYS);
}
static void int8_as_on_the_cpu(void **state) {
  devices_agree(*state, IE_PRECISION_INT8, IE_WEIGHTS_PUBLISHED, /*chunk=*/0, 2e-2);
}
static void int8_weights_as_on_the_cpu(void **state) {
  devices_agree(*state, IE_PRECISION_FP32, IE_WEIGHTS_INT8, /*chunk=*/0, 1e-4);
}
static void int4_weights_as_on_the_cpu(void **state) {
  devices_agree(*state, IE_PRECISION_FP32, IE_WEIGHTS_INT4, /*chunk=*/0, 1e-4);
}

static void reference_is_met(void **state) {
  const subject *s = *state;
  ie_model *model = open_model(s->cuda, s, IE_PRECISION_FP32, IE_WEIGHTS_PUBLISHED);
  for (int i = 0; i < s->golden->count; i++) {
    const golden_case *c = &s->golden->cases[i];
    float *logits = golden_logits(model, c->ids, c->T, /*chunk=*/0);
    double error = golden_error(logits, c->logits, c->T * c->V);
    free(logits);
    if (!(error <= 1e-4)) fail_msg("%s case %d: error %.1e", s->golden->name, i, error);
  }
  ie_model_free(model);
}

static void greedy_ids_equal(void **state) {
  const subject *s = *state;
  ie_error error = {0};
  ie_model *model = open_model(s->cuda, s, IE_PRECISION_FP32, IE_WEIGHTS_PUBLISHED);
  for (int i = 0; i < s->golden->count; i++) {
    const golden_case *c = &s->golden->cases[i];
    ie_generate_result r;
    int64_t count = c->new_tok < NEW_TOK ? c->new_tok : NEW_TOK;
    ie_state *st = open_state(model, &(ie_state_options){.context_tok = c->T + count});
    ie_generate_options o = {.prompt = c->ids,
                             .prompt_count = c->T,
                             .max_new = count,
                             .ignore_eos = true,
                             .sample = {.greedy = true}};
    if (ie_generate(st, 0, &o, &r, &error) != IE_OK) fail_msg("%s", error.message);
    assert_int_equal(r.ids.count, count);
    for (int64_t k = 0; k < count && c->gap[k] >= gap_decided; k++)
      assert_int_equal(r.ids.ids[k], c->greedy[k]);
    if (count > 4) assert_true(cuda_runner_counts(st->runner).replayed > 0);
    ie_generate_result_free(&r);
    ie_state_free(st);
  }
  ie_model_free(model);
}

/* --- Replays ------------------------------------------------------------------------------------------------ */

static ie_status hidden_ignore(void *arg, int64_t layer, int64_t position, int64_t count, const float *hidden,
                               ie_error *error) {
  (void)layer, (void)position, (void)count, (void)error;
  float *sum = arg;
  *sum += hidden[0];
  return IE_OK;
}

/* One token of each sequence. Somebody who listens to the layers makes it a launched forward. */
static void step(ie_state *state, const int32_t *ids, int64_t n, bool launched, float *logits) {
  ie_error error = {0};
  ie_advance row[8] = {0};
  float sum = 0;
  ie_forward_options options = {.hidden = launched ? hidden_ignore : NULL, .arg = &sum};
  for (int64_t i = 0; i < n; i++)
    row[i] = (ie_advance){.sequence = i, .ids = &ids[i], .count = 1, .wanted = 1};
  if (ie_state_advance(state, row, n, &options, &error) != IE_OK) fail_msg("%s", error.message);
  int64_t V = ie_model_describe(state->model)->vocab;
  for (int64_t i = 0; i < n; i++) memcpy(logits + i * V, row[i].logits, (size_t)V * sizeof *logits);
}

/* Decode of n sequences with prompts of different lengths: a state that replays beside one that launches. */
static void replay_equals_launches(void **opaque) {
  const subject *s = *opaque;
  const golden_case *c = &s->golden->cases[s->golden->count - 1];
  ie_model *model = open_model(s->cuda, s, IE_PRECISION_BF16, IE_WEIGHTS_PUBLISHED);
  enum { SEQUENCES = 3, STEPS = 4 };
  const ie_state_options options = {.context_tok = c->T + STEPS, .sequences = SEQUENCES};
  ie_state *replayed = open_state(model, &options), *launched = open_state(model, &options);
  float *logits = malloc(2 * SEQUENCES * (size_t)c->V * sizeof *logits), *other = logits + SEQUENCES * c->V;
  ie_error error = {0};
  for (int64_t i = 0; i < SEQUENCES; i++) {
    assert_int_equal(ie_state_append(replayed, i, c->ids, c->T - 2 * i, NULL, &error), IE_OK);
    assert_int_equal(ie_state_append(launched, i, c->ids, c->T - 2 * i, NULL, &error), IE_OK);
  }
  for (int k = 0; k < STEPS; k++) {
    int32_t ids[SEQUENCES];
    for (int64_t i = 0; i < SEQUENCES; i++) ids[i] = c->ids[(k + i) % c->T];
    int64_t n = k < STEPS - 1 ? SEQUENCES : 1; /* the last one has another shape */
    step(replayed, ids, n, /*launched=*/false, logits);
    step(launched, ids, n, /*launched=*/true, other);
    assert_memory_equal(logits, other, (size_t)(n * c->V) * sizeof *logits);
  }
  cuda_counts counts = cuda_runner_counts(replayed->runner);
  assert_int_equal(counts.recorded, 1);
  assert_int_equal(counts.replayed, STEPS - 2);
  assert_int_equal(cuda_runner_counts(launched->runner).replayed, 0);
  assert_null(ie_device_note(s->cuda));
  ie_state_work a = ie_state_work_done(replayed), b = ie_state_work_done(launched);
  assert_true(a.weight_bytes == b.weight_bytes && a.kv_bytes == b.kv_bytes && a.flop == b.flop);
  free(logits);
  ie_state_free(replayed);
  ie_state_free(launched);
  ie_model_free(model);
}

/* --- Caches --------------------------------------------------------------------------------------------------- */

/* Groups of an int8 cache are 64 positions: decode crosses the end of one. */
static int64_t deep_context(const golden_case *c) {
  return c->T < DEEP_TOK ? DEEP_TOK : c->T + 4;
}

static float *decode_logits(const subject *s, ie_device *device, const golden_case *c, ie_dtype kv) {
  ie_model *model = open_model(device, s, IE_PRECISION_FP32, IE_WEIGHTS_PUBLISHED);
  int64_t context = deep_context(c), most = ie_model_describe(model)->context_tok;
  assert_true(context <= most);
  ie_state *state = open_state(model, &(ie_state_options){.context_tok = context, .kv = kv, .chunk_tok = 7});
  float *logits = calloc(1, (size_t)(context * c->V) * sizeof *logits);
  ie_error error = {0};
  assert_int_equal(ie_state_append(state, 0, c->ids, c->T, NULL, &error), IE_OK);
  for (int64_t t = c->T; t < context; t++)
    step(state, &c->ids[t % c->T], 1, /*launched=*/false, logits + t * c->V);
  ie_state_free(state);
  ie_model_free(model);
  return logits;
}

static void caches_agree(const subject *s, ie_dtype kv, double tolerance) {
  const golden_case *c = &s->golden->cases[s->golden->count > 1]; /* forty tokens, or the only case */
  float *expected = decode_logits(s, s->cpu, c, kv), *found = decode_logits(s, s->cuda, c, kv);
  double error = golden_error(found, expected, deep_context(c) * c->V);
  if (!(error <= tolerance)) fail_msg("%s: %.2e beside %.1e", s->golden->name, error, tolerance);
  free(expected);
  free(found);
}

static void f16_cache_as_on_the_cpu(void **state) {
  caches_agree(*state, IE_F16, 2e-3); /* where a key lies near the middle of two numbers of f16 */
}
static void int8_cache_as_on_the_cpu(void **state) {
  caches_agree(*state, IE_I8, 1e-2);
}

static const struct {
  const char *name;
  CMUnitTestFunction function;
} checks[] = {
    {"bf16_as_on_the_cpu", bf16_as_on_the_cpu},
    {"bf16_by_wgmma", bf16_by_wgmma},
    {"reference_is_met", reference_is_met},
    {"fp32_as_on_the_cpu", fp32_as_on_the_cpu}, /* from here on of all models on a GPU alone */
    {"fp32_in_chunks", fp32_in_chunks},
    {"int8_as_on_the_cpu", int8_as_on_the_cpu},
    {"int8_weights_as_on_the_cpu", int8_weights_as_on_the_cpu},
    {"int4_weights_as_on_the_cpu", int4_weights_as_on_the_cpu},
    {"greedy_ids_equal", greedy_ids_equal},
    {"replay_equals_launches", replay_equals_launches},
    {"f16_cache_as_on_the_cpu", f16_cache_as_on_the_cpu},
    {"int8_cache_as_on_the_cpu", int8_cache_as_on_the_cpu},
};
enum { CHECKS = sizeof checks / sizeof checks[0] };

/* test_gpu_golden [FILTER]: names of tests ("CHECK MODEL"), with * and ?; --list: names of the models, one a line. */
int main(int argc, char **argv) {
  static golden_model models[GOLDEN_MODELS_MAX];
  static subject subjects[GOLDEN_MODELS_MAX];
  static struct CMUnitTest tests[GOLDEN_MODELS_MAX * CHECKS];
  static char names[GOLDEN_MODELS_MAX * CHECKS][128];
  ie_device *cpu, *cuda;
  ie_error error = {0};
  int count = golden_open_all("tests/data/models", models, GOLDEN_MODELS_MAX), t = 0;
  if (argc > 1 && !strcmp(argv[1], "--list")) {
    for (int m = 0; m < count; m++) {
      printf("%s\n", models[m].name);
      golden_close(&models[m]);
    }
    return count == 0;
  }
  if (ie_device_open(&(ie_device_options){.kind = "cpu"}, &cpu, &error) != IE_OK ||
      ie_device_open(&(ie_device_options){.kind = "cuda", .threads = 1}, &cuda, &error) != IE_OK) {
    fprintf(stderr, "%s\n", error.message);
    return 1;
  }
  for (int m = 0; m < count; m++) subjects[m] = (subject){&models[m], cpu, cuda};
  for (int m = 0; m < count; m++)
    for (int c = 0; c < CHECKS; c++) {
      bool deep = !strcmp(models[m].name, "qwen3") && checks[c].function == greedy_ids_equal;
      if (EMULATED && c >= 3 && !deep && strcmp(models[m].name, "gpt-oss-hf") != 0) continue;
      snprintf(names[t], sizeof names[t], "%s %s", checks[c].name, models[m].name);
      tests[t] = (struct CMUnitTest){
          .name = names[t], .test_func = checks[c].function, .initial_state = &subjects[m]};
      t++;
    }
  bool some = argc == 1 && count > 0;
  for (int i = 0; i < t && !some; i++) some = argc > 1 && !fnmatch(argv[1], names[i], 0);
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  if (!some) fprintf(stderr, "test_gpu_golden: no test is called so\n");
  int failed = !some ? 1 : _cmocka_run_group_tests("gpu golden", tests, (size_t)t, NULL, NULL);
  for (int m = 0; m < count; m++) golden_close(&models[m]);
  ie_device_free(cuda);
  ie_device_free(cpu);
  return failed;
}
