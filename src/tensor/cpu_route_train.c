/* CPU launchers under a tape of what stands around a mixture: the router's backward with its balance, and the backward
 * of the dense SwiGLU. */
#include "base/size.h"
#include "tensor/device.h"

#include <string.h>

enum { ROUTE_TOKENS = 64 }; /* of a partial sum: fixed, so that sums do not depend on the threads */

typedef struct route_run {
  const ie_route_options *options;
  real *dlogits;         /* (T, E) */
  const real *dweight;   /* (T, k) or NULL */
  const real *logits;    /* (T, E) */
  const int32_t *expert; /* (T, k) */
  const real *weight;    /* (T, k) */
  int64_t T, E, k;
  real *share;   /* (E) f_e, with a balance */
  real *p, *sum; /* (ranges, E) probabilities of the token in work, and their sums over a range */
} route_run;

/* Forward: w_j = exp(l_j) / sum over the chosen i of exp(l_i). dl_j = w_j (dw_j - sum over i of w_i dw_i). */
static void weight_backward(const route_run *run, int64_t t) {
  const real *w = run->weight + t * run->k, *dw = run->dweight + t * run->k;
  const int32_t *expert = run->expert + t * run->k;
  real mean = 0;
  for (int64_t j = 0; j < run->k; j++) mean += w[j] * dw[j];
  for (int64_t j = 0; j < run->k; j++) run->dlogits[t * run->E + expert[j]] += w[j] * (dw[j] - mean);
}

static void softmax(real *p, const real *logits, int64_t n) {
  real top = logits[0], sum = 0;
  for (int64_t i = 1; i < n; i++)
    if (logits[i] > top) top = logits[i];
  for (int64_t i = 0; i < n; i++) {
    p[i] = real_exp(logits[i] - top);
    sum += p[i];
  }
  for (int64_t i = 0; i < n; i++) p[i] /= sum;
}

/* Forward: loss = E sum over e of f_e P_e, P_e = 1/T sum over t of p[t, e], p = softmax of the logits.
 * dl[t, i] = E / T p[t, i] (f_i - sum over e of f_e p[t, e]). */
static void balance_backward(const route_run *run, int64_t t, real *p, real *sum) {
  double coefficient = run->options->balance->coefficient;
  softmax(p, run->logits + t * run->E, run->E);
  real mean = 0;
  for (int64_t e = 0; e < run->E; e++) {
    sum[e] += p[e];
    mean += run->share[e] * p[e];
  }
  if (coefficient == 0) return;
  real scale = (real)(coefficient * (double)run->E / (double)run->T);
  for (int64_t e = 0; e < run->E; e++) run->dlogits[t * run->E + e] += scale * p[e] * (run->share[e] - mean);
}

static void route_ranges(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const route_run *run = arg;
  for (int64_t range = begin; range < end; range++) {
    real *p = run->p ? run->p + range * run->E : NULL, *sum = run->p ? run->sum + range * run->E : NULL;
    if (sum) memset(sum, 0, (size_t)run->E * sizeof *sum);
    int64_t last = ie_min_i64(run->T, (range + 1) * ROUTE_TOKENS);
    for (int64_t t = range * ROUTE_TOKENS; t < last; t++) {
      if (run->dweight) weight_backward(run, t);
      if (sum) balance_backward(run, t, p, sum);
    }
  }
}

/* f_e, and what the struct counts. */
static void balance_count(route_run *run) {
  ie_route_balance *balance = run->options->balance;
  memset(run->share, 0, (size_t)run->E * sizeof *run->share);
  for (int64_t i = 0; i < run->T * run->k; i++) run->share[run->expert[i]] += 1;
  for (int64_t e = 0; e < run->E; e++) {
    if (balance->chosen) balance->chosen[e] += (int64_t)run->share[e];
    run->share[e] /= (real)run->T;
  }
  balance->tokens += run->T;
}

static void balance_loss(const route_run *run, int64_t ranges) {
  double loss = 0;
  for (int64_t e = 0; e < run->E; e++) {
    double probability = 0;
    for (int64_t range = 0; range < ranges; range++) probability += (double)run->sum[range * run->E + e];
    loss += (double)run->share[e] * probability;
  }
  run->options->balance->loss += (double)run->E * loss; /* times T / T */
}

static void cpu_route_backward(ie_ctx *ctx, real *dlogits, const real *dweight, const ie_tensor *logits,
                               ie_tensor *const routing[2], const ie_route_options *options) {
  route_run run = {.options = options, .dlogits = dlogits, .dweight = dweight};
  run.T = logits->shape[0];
  run.E = logits->shape[1];
  run.k = routing[0]->shape[1];
  int64_t ranges = ie_div_up(run.T, ROUTE_TOKENS);
  size_t row = (size_t)run.E * sizeof(real);
  ie_ctx_mark mark = ie_ctx_save(ctx);
  bool taken = !options->balance || (ie_ctx_scratch(ctx, row, (void **)&run.share) &&
                                     ie_ctx_scratch(ctx, (size_t)ranges * row, (void **)&run.p) &&
                                     ie_ctx_scratch(ctx, (size_t)ranges * row, (void **)&run.sum));
  if (taken && !ctx->dry && run.T > 0) {
    run.logits = ie_tensor_f32(logits);
    run.expert = ie_tensor_i32(routing[0]);
    run.weight = ie_tensor_f32(routing[1]);
    if (options->balance) balance_count(&run);
    ie_team_for(ctx->device->team, ranges, /*chunk=*/1, route_ranges, &run);
    if (options->balance) balance_loss(&run, ranges);
  }
  ie_ctx_reset(ctx, mark);
}

/* --- Dense SwiGLU -------------------------------------------------------------------------------------------- */

enum { SWIGLU_CHUNK = 2048 };

typedef struct swiglu_run {
  const ie_kernels *kernels;
  real *dgate, *dup;
  const real *dy, *gate, *up;
} swiglu_run;

static void swiglu_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const swiglu_run *run = arg;
  run->kernels->swiglu_backward(run->dgate ? run->dgate + begin : NULL, run->dup ? run->dup + begin : NULL,
                                run->dy + begin, run->gate + begin, run->up + begin, end - begin);
}

static void cpu_swiglu_backward(ie_ctx *ctx, real *dgate, real *dup, const real *dy, const ie_tensor *gate,
                                const ie_tensor *up) {
  if (ctx->dry) return;
  swiglu_run run = {&ctx->device->kernels, dgate, dup, dy, ie_tensor_f32(gate), ie_tensor_f32(up)};
  ie_team_for(ctx->device->team, ie_tensor_count(gate), SWIGLU_CHUNK, swiglu_part, &run);
}

void ie_cpu_fill_route_train(ie_device_ops *ops) {
  ops->route_backward = cpu_route_backward;
  ops->swiglu_backward = cpu_swiglu_backward;
}
