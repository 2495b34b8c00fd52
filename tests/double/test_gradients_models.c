/* Whole models under a tape, in double: the gradient of the loss of every architecture and published layout in
 * tests/data/models with respect to every parameter, along random uphill directions, against central differences. A
 * parameter's gradient that is 0.1% off would be found. With blocks that are computed again the gradients are the same
 * to the bit. */
#include "base/rng.h"
#include "models/decoder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LENGTH = 10, SEQUENCES = 2, TOKENS = LENGTH * SEQUENCES, STEPS = 5 };
static const double tolerance = 1e-7;

typedef struct bench {
  ie_device *device;
  ie_model *model;
  ie_ctx ctx;
  ie_tape *tape;
  ie_kv_layer *kv;
  int32_t ids[TOKENS], position[TOKENS], sequence[TOKENS], target[TOKENS];
} bench;

static void bench_open(bench *b, const char *name) {
  char dir[256];
  ie_error error = {0};
  memset(b, 0, sizeof *b);
  snprintf(dir, sizeof dir, "tests/data/models/%s", name);
  assert_int_equal(ie_device_open(&(ie_device_options){.threads = 1}, &b->device, &error), IE_OK);
  const ie_model_options options = {.precision = IE_PRECISION_FP32, .train = true};
  if (ie_model_open(b->device, dir, &options, &b->model, &error) != IE_OK) fail_msg("%s", error.message);
  b->ctx = (ie_ctx){.device = b->device, .cls = IE_CLASS_F32, .layer = -1};
  assert_int_equal(ie_arena_open((size_t)1 << 30, &b->ctx.arena, &error), IE_OK);
  assert_non_null(b->tape = ie_tape_new());
  int64_t layers = b->model->info.layers, vocabulary = b->model->info.vocab;
  assert_non_null(b->kv = calloc((size_t)layers, sizeof *b->kv));
  for (int64_t i = 0; i < layers; i++)
    b->kv[i] = (ie_kv_layer){.dtype = IE_F32, .heads = b->model->kv[i].heads, .dim = b->model->kv[i].dim};
  for (int t = 0; t < TOKENS; t++) {
    b->ids[t] = (int32_t)(ie_rng_u64(1, 2, (uint64_t)t) % (uint64_t)vocabulary);
    b->target[t] = t % 5 == 4 ? -1 : (int32_t)(ie_rng_u64(1, 3, (uint64_t)t) % (uint64_t)vocabulary);
    b->position[t] = t % LENGTH;
    b->sequence[t] = t / LENGTH;
  }
  ie_param_list *params = &b->model->params;
  assert_true(params->count > 0);
  for (int64_t i = 0; i < params->count; i++)
    assert_non_null(params->item[i]->grad = calloc((size_t)params->item[i]->count, sizeof(real)));
}

static void bench_close(bench *b) {
  for (int64_t i = 0; i < b->model->params.count; i++) free(b->model->params.item[i]->grad);
  free(b->kv);
  ie_tape_free(b->tape);
  ie_arena_close(&b->ctx.arena);
  ie_model_free(b->model);
  ie_device_free(b->device);
}

/* The loss; with `options` gradients are added. */
static double loss_run(bench *b, const ie_tape_options *options) {
  ie_ctx *ctx = &b->ctx;
  const ie_decoder *d = b->model->net;
  const ie_batch batch = {.tokens = TOKENS, .ids = b->ids, .position = b->position, .sequence = b->sequence};
  const ie_loss_options loss_options = {
      .head = &d->head, .target = b->target, .scale = 1.0 / TOKENS, .soft_cap = d->soft_cap};
  ie_ctx_mark mark = ie_ctx_save(ctx);
  if (options)
    ie_tape_begin(ctx, b->tape, options);
  else
    ie_tape_begin_forward(ctx, b->tape);
  ie_tensor *x = ie_decoder_hidden(b->model->arch->decoder, ctx, d, b->kv, &batch, /*hooks=*/NULL);
  double loss = ie_op_cross_entropy(ctx, x, &loss_options);
  if (options) ie_tape_backward(ctx);
  ie_tape_end(ctx);
  ie_ctx_reset(ctx, mark);
  if (ctx->status != IE_OK) fail_msg("%s", ctx->error.message);
  return loss;
}

/* Entry j of the direction of parameter i: random, uphill where there is a gradient, so that parts do not cancel. */
static double direction(const ie_param_list *params, int64_t i, int64_t j) {
  double number = 2.0 * ie_rng_f64(23, (uint64_t)i, (uint64_t)j) - 1.0,
         grad = (double)params->item[i]->grad[j];
  return grad != 0 ? copysign(number, grad) : number;
}

/* Parameter `one`, or all when it is negative, += h * direction. */
static void params_move(bench *b, int64_t one, double h) {
  const ie_param_list *params = &b->model->params;
  for (int64_t i = one < 0 ? 0 : one; i < (one < 0 ? params->count : one + 1); i++)
    for (int64_t j = 0; j < params->item[i]->count; j++)
      params->item[i]->value[j] += (real)(h * direction(params, i, j));
}

/* Compares along one parameter's direction, or that of all, and makes sure that 0.1% more would not have passed. Returns
 * the relative error. */
static double derivative_check(bench *b, const char *model, int64_t one) {
  static const double steps[STEPS] = {1e-5, 1e-4, 1e-6, 3e-5, 1e-3};
  const ie_param_list *params = &b->model->params;
  double analytic = 0, squares = 0, best = INFINITY;
  for (int64_t i = one < 0 ? 0 : one; i < (one < 0 ? params->count : one + 1); i++)
    for (int64_t j = 0; j < params->item[i]->count; j++) {
      double part = direction(params, i, j) * (double)params->item[i]->grad[j];
      analytic += part;
      squares += part * part;
    }
  double size = fmax(fabs(analytic), sqrt(squares));
  for (int s = 0; s < STEPS && best > 0.1 * tolerance * size; s++) {
    double h = steps[s] / fmax(1, size); /* steep is curved too */
    params_move(b, one, h);
    double up = loss_run(b, NULL);
    params_move(b, one, -2 * h);
    double down = loss_run(b, NULL);
    params_move(b, one, h);
    best = fmin(best, fabs((up - down) / (2 * h) - analytic));
  }
  const char *name = one < 0 ? "all" : params->item[one]->name;
  if (size == 0) fail_msg("%s: %s has no gradient", model, name);
  /* The loss is known to 1e-15, so its differences to 1e-10. */
  if (!(best <= tolerance * size + 2e-10)) fail_msg("%s: %s: %.3g off beside %.3g", model, name, best, size);
  if (!(1e-3 * fabs(analytic) > 10 * (best + tolerance * size + 2e-10)))
    fail_msg("%s: %s: 0.1%% of %.3g would not be found beside %.3g", model, name, analytic, size);
  return best / size;
}

/* The gradients as they are; the parameters get zeros. */
static real **grads_take(const ie_param_list *params) {
  real **kept = malloc((size_t)params->count * sizeof *kept);
  assert_non_null(kept);
  for (int64_t i = 0; i < params->count; i++) {
    kept[i] = params->item[i]->grad;
    assert_non_null(params->item[i]->grad = calloc((size_t)params->item[i]->count, sizeof(real)));
  }
  return kept;
}

static void gradients_agree(void **state) {
  static const ie_tape_options keep = {0}, recompute = {.recompute = true};
  const char *name = *state;
  bench b;
  bench_open(&b, name);
  const ie_param_list *params = &b.model->params;
  double loss = loss_run(&b, &keep);
  real **kept = grads_take(params);
  assert_true(loss_run(&b, &recompute) == loss);
  for (int64_t i = 0; i < params->count; i++) {
    const ie_param *p = params->item[i];
    if (memcmp(p->grad, kept[i], (size_t)p->count * sizeof(real)) != 0)
      fail_msg("%s: %s differs when blocks are computed again", name, p->name);
    free(kept[i]);
  }
  free(kept);
  double worst = derivative_check(&b, name, -1);
  for (int64_t i = 0; i < params->count; i++) worst = fmax(worst, derivative_check(&b, name, i));
  print_message("%-20s %3lld parameters, at most %.1e off\n", name, (long long)params->count, worst);
  bench_close(&b);
}

int main(void) {
  static const char *const models[] = {"gpt-neox-parallel",
                                       "gpt-neox-sequential",
                                       "gpt-oss-hf",
                                       "gpt-oss-original",
                                       "gpt-oss-bf16",
                                       "llama3",
                                       "nanochat-hf",
                                       "nanochat-native",
                                       "qwen2",
                                       "qwen3"};
  enum { MODELS = sizeof models / sizeof models[0] };
  struct CMUnitTest tests[MODELS];
  for (int i = 0; i < MODELS; i++)
    tests[i] = (struct CMUnitTest){models[i], gradients_agree, NULL, NULL, (void *)models[i]};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
