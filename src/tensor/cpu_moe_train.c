/* CPU launchers of the mixture of experts under a tape: moe_train, moe_backward.
 *
 * Pairs (t, j) stand sorted by expert (moe_pairs.h), and each expert is one product of a group (cpu_gemm.h), so the
 * experts share the team as one large product would. Numbers of a pair do not depend on which tokens share its expert,
 * sums over pairs run in the sorted order, and sums of a token in the order of the router.
 *
 * Forward, of the pair p of token t and expert e, with w = weight[t, j]:
 *   gu = W_gate_up[e] x_t + b,  h = swiglu_clamped(gu),  y_t += w (W_down[e] h + b_down[e])
 * Backward:
 *   dh = W_down[e]^T dy_t,  dw = dh . h + b_down[e] . dy_t,  dgu = w dh swiglu_clamped'(gu)
 *   dW_down[e] += dy_t (w h)^T,  db_down[e] += w dy_t
 *   dW_gate_up[e] += dgu x_t^T,  db_gate_up[e] += dgu,  dx_t += W_gate_up[e]^T dgu */
#include "base/size.h"
#include "tensor/cpu_gemm.h"
#include "tensor/cpu_train.h"
#include "tensor/moe_pairs.h"

#include <math.h>
#include <stdatomic.h>

enum { SUM_COLS = 256 }; /* columns of a bias's gradient that one unit of work sums */

typedef struct train_run {
  ie_ctx *ctx;
  const ie_kernels *kernels;
  const ie_moe_options *options;
  const ie_tensor *expert;
  const real *x, *weight; /* (T, C), (T, k) */
  int64_t C, F;           /* width, expert width */
  moe_pairs pairs;
  ie_gemm *products; /* (E) */
  ie_wview *views;   /* (E) */
  real *bias;        /* (E, R) of the weight that is multiplied with */
  const real *gu;    /* (P, 2F) */
  real *h;           /* (P, F) forward: h; backward: dh, then w h */
  real *out;         /* (P, C) forward: outputs of the experts; backward: dx of each pair */
  real *y;           /* (T, C) to which `out` is added */
  atomic_bool nonfinite;
  /* Backward: */
  const real *dy; /* (T, C) */
  real *dgu;      /* (P, 2F) */
  real *bias_dot; /* (T, E) b_down[e] . dy_t, or NULL */
  real *dweight;  /* (T, k) or NULL */
} train_run;

static bool scratch_numbers(ie_ctx *ctx, int64_t rows, int64_t cols, real **out) {
  return ie_ctx_scratch(ctx, (size_t)rows * (size_t)cols * sizeof(real), (void **)out);
}

/* False, and a message, for what has no backward. */
static bool train_check(ie_ctx *ctx) {
  if (ctx->cls != IE_CLASS_F32 && ctx->cls != IE_CLASS_BF16)
    return ie_ctx_fail(ctx, IE_UNSUPPORTED, "moe: training has products in fp32 and bf16 only");
  if (ctx->experts)
    return ie_ctx_fail(ctx, IE_UNSUPPORTED, "moe: training needs the experts in memory, they are streamed");
  return true;
}

static bool train_take(train_run *run) {
  ie_ctx *ctx = run->ctx;
  const ie_moe_options *o = run->options;
  int64_t E = o->gate_up->experts, P = run->expert->shape[0] * run->expert->shape[1];
  run->kernels = &ctx->device->kernels;
  run->C = o->gate_up->cols;
  run->F = o->down->cols;
  return train_check(ctx) &&
         moe_pairs_take(ctx, &run->pairs, run->expert->shape[0], run->expert->shape[1], E) &&
         ie_ctx_scratch(ctx, (size_t)E * sizeof *run->products, (void **)&run->products) &&
         ie_ctx_scratch(ctx, (size_t)E * sizeof *run->views, (void **)&run->views) &&
         scratch_numbers(ctx, E, ie_max_i64(2 * run->F, run->C), &run->bias) &&
         scratch_numbers(ctx, P, run->F, &run->h) && scratch_numbers(ctx, P, run->C, &run->out);
}

/* The biases of all experts as numbers (E, R), or NULL. */
static const real *bias_load(const train_run *run, const ie_weight *w) {
  if (w->bias_param) return w->bias_param->value;
  if (!w->bias) return NULL;
  for (int64_t e = 0; e < w->experts; e++)
    run->kernels->load(run->bias + e * w->rows, ie_weight_bias(w, e), w->bias_dtype, w->rows);
  return run->bias;
}

/* One product for each expert that has pairs: rows start[e] .. start[e + 1] of a (P, K) or, with gather, of a (T, K) in
 * the order of the pairs, with the matrix of the expert (transposed: forward). */
static void weight_products(train_run *run, const ie_weight *w, bool transposed, const real *a, bool gather,
                            real *c) {
  const real *bias = transposed ? bias_load(run, w) : NULL;
  int64_t N = transposed ? w->rows : w->cols, K = transposed ? w->cols : w->rows, n = 0;
  for (int64_t e = 0; e < run->pairs.E; e++) {
    int64_t first = run->pairs.start[e], count = run->pairs.start[e + 1] - first;
    if (count == 0) continue;
    run->products[n] = (ie_gemm){.M = count, .N = N, .K = K, .c = c + first * N, .c_stride = N};
    run->products[n].a = (ie_gemm_matrix){.data = gather ? a : a + first * K,
                                          .row_stride = K,
                                          .gather = gather ? run->pairs.row + first : NULL};
    run->products[n].b = ie_cpu_weight_matrix(w, e, &run->views[n], transposed);
    run->products[n].bias = bias ? bias + e * N : NULL;
    run->products[n++].bf16 = ie_cpu_rounds(run->ctx, w);
  }
  ie_cpu_gemm(run->ctx, run->products, n);
}

/* grad (E, R, K) += a^T b over the pairs of each expert; a and b as in weight_products. */
static void gradient_products(train_run *run, const ie_weight *w, ie_gemm_matrix a, ie_gemm_matrix b) {
  int64_t n = 0;
  for (int64_t e = 0; e < run->pairs.E; e++) {
    int64_t first = run->pairs.start[e], count = run->pairs.start[e + 1] - first;
    if (count == 0) continue;
    ie_gemm *g = &run->products[n++];
    *g = (ie_gemm){.M = w->rows, .N = w->cols, .K = count, .a = a, .b = b, .add = true};
    g->c = w->param->grad + e * w->rows * w->cols;
    g->c_stride = w->cols;
    g->bf16 = ie_cpu_rounds(run->ctx, w);
    g->a.transposed = true;
    for (int side = 0; side < 2; side++) {
      ie_gemm_matrix *m = side ? &g->b : &g->a;
      if (m->gather)
        m->gather += first;
      else
        m->data += first * m->row_stride;
    }
  }
  ie_cpu_gemm(run->ctx, run->products, n);
}

/* y_t += the sum over j of the outputs of its pairs, times their weights (forward) or as they are. */
static void train_combine(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const train_run *run = arg;
  const moe_pairs *p = &run->pairs;
  for (int64_t t = begin; t < end; t++)
    for (int64_t j = 0; j < p->k; j++)
      run->kernels->axpy(run->y + t * run->C, run->out + p->sorted[t * p->k + j] * run->C,
                         run->weight ? run->weight[t * p->k + j] : 1, run->C);
}

/* --- Forward ----------------------------------------------------------------------------------------------- */

/* The clamp would turn an infinity into a number, so what it reads is looked at while it is in the cache. */
static void train_activate(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  train_run *run = arg;
  const real *gu = run->gu + 2 * begin * run->F;
  int64_t count = (end - begin) * run->F;
  if (run->kernels->find_nonfinite(gu, 2 * count) >= 0)
    atomic_store_explicit(&run->nonfinite, true, memory_order_relaxed);
  run->kernels->swiglu_clamped(run->h + begin * run->F, gu, count, run->options->alpha, run->options->limit);
}

static bool gate_up_check(train_run *run) {
  if (!atomic_load_explicit(&run->nonfinite, memory_order_relaxed)) return true;
  int64_t width = 2 * run->F, at = run->kernels->find_nonfinite(run->gu, run->pairs.P * width);
  return ie_ctx_fail(run->ctx, IE_NUMERIC, "gate and up of expert %d: %s in row %lld",
                     (int)ie_tensor_i32(run->expert)[run->pairs.pair[at / width]],
                     isnan(run->gu[at]) ? "NaN" : "infinity", (long long)(at % width));
}

static void cpu_moe_train(ie_ctx *ctx, ie_tensor *y, ie_tensor *gate_up, const ie_tensor *x,
                          ie_tensor *const routing[2], const ie_moe_options *options) {
  train_run run = {.ctx = ctx, .options = options, .expert = routing[0]};
  ie_ctx_mark mark = ie_ctx_save(ctx);
  if (train_take(&run)) {
    if (ctx->dry) {
      ie_cpu_gemm(ctx, NULL, 0);
    } else {
      run.x = ie_tensor_f32(x);
      run.weight = ie_tensor_f32(routing[1]);
      run.gu = ie_tensor_f32(gate_up);
      run.y = ie_tensor_f32(y);
      moe_pairs_sort(&run.pairs, ie_tensor_i32(routing[0]));
      weight_products(&run, options->gate_up, /*transposed=*/true, run.x, /*gather=*/true,
                      ie_tensor_f32(gate_up));
      if (ctx->status == IE_OK)
        ie_team_for(ctx->device->team, run.pairs.P, /*chunk=*/4, train_activate, &run);
      if (ctx->status == IE_OK && gate_up_check(&run))
        weight_products(&run, options->down, /*transposed=*/true, run.h, /*gather=*/false, run.out);
      if (ctx->status == IE_OK) ie_team_for(ctx->device->team, run.pairs.T, /*chunk=*/4, train_combine, &run);
    }
  }
  ie_ctx_reset(ctx, mark);
}

/* --- Backward ---------------------------------------------------------------------------------------------- */

static real *param_grad(const ie_param *param) {
  return param ? param->grad : NULL;
}

/* bias_dot (T, E): dy_t . b_down[e] of all experts, more than are asked for but one product. In f32: a rounding of the
 * bias would be none of the forward's. */
static void bias_products(train_run *run) {
  const real *bias = bias_load(run, run->options->down);
  ie_gemm product = {.M = run->pairs.T, .N = run->pairs.E, .K = run->C, .c = run->bias_dot};
  product.a = (ie_gemm_matrix){.data = run->dy, .row_stride = run->C};
  product.b = (ie_gemm_matrix){.data = bias, .row_stride = run->C, .transposed = true};
  product.c_stride = run->pairs.E;
  ie_cpu_gemm(run->ctx, &product, 1);
}

/* From dh: dgu, the gradient of the weight, and w h in its place. */
static void activate_backward(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const train_run *run = arg;
  int64_t F = run->F;
  for (int64_t p = begin; p < end; p++) {
    int32_t pair = run->pairs.pair[p];
    real dot =
        run->kernels->swiglu_clamped_backward(run->dgu + 2 * p * F, run->h + p * F, run->gu + 2 * p * F, F,
                                              run->weight[pair], run->options->alpha, run->options->limit);
    if (!run->dweight) continue;
    if (run->bias_dot)
      dot += run->bias_dot[run->pairs.row[p] * run->pairs.E + ie_tensor_i32(run->expert)[pair]];
    run->dweight[pair] += dot;
  }
}

/* grad (E, R): the sum over the pairs of each expert of factor[pair] * row, in their order. */
typedef struct sum_job {
  const train_run *run;
  real *grad;
  const real *rows;    /* (P, R) in sorted order, or with gather (T, R) */
  const real *factor;  /* (T, k) or NULL: ones */
  int64_t cols, parts; /* R, and how many parts of SUM_COLS it has */
  bool gather;
} sum_job;

static void sum_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const sum_job *job = arg;
  const moe_pairs *pairs = &job->run->pairs;
  for (int64_t i = begin; i < end; i++) {
    int64_t e = i / job->parts, first = i % job->parts * SUM_COLS;
    int64_t cols = ie_min_i64(SUM_COLS, job->cols - first);
    for (int64_t p = pairs->start[e]; p < pairs->start[e + 1]; p++) {
      const real *row = job->rows + (job->gather ? pairs->row[p] : p) * job->cols + first;
      job->run->kernels->axpy(job->grad + e * job->cols + first, row,
                              job->factor ? job->factor[pairs->pair[p]] : 1, cols);
    }
  }
}

static void bias_gradient(sum_job job) {
  job.parts = ie_div_up(job.cols, SUM_COLS);
  ie_team_for(job.run->ctx->device->team, job.run->pairs.E * job.parts, /*chunk=*/1, sum_part, &job);
}

static void parameter_gradients(train_run *run) {
  const ie_weight *up = run->options->gate_up, *down = run->options->down;
  const int32_t *row = run->pairs.row;
  ie_gemm_matrix x = {.data = run->x, .row_stride = run->C, .gather = row};
  ie_gemm_matrix dy = {.data = run->dy, .row_stride = run->C, .gather = row};
  ie_gemm_matrix h = {.data = run->h, .row_stride = run->F};
  ie_gemm_matrix dgu = {.data = run->dgu, .row_stride = 2 * run->F};
  if (param_grad(down->param)) gradient_products(run, down, dy, h);
  if (param_grad(up->param)) gradient_products(run, up, dgu, x);
  if (param_grad(down->bias_param))
    bias_gradient((sum_job){.run = run,
                            .grad = down->bias_param->grad,
                            .rows = run->dy,
                            .factor = run->weight,
                            .cols = run->C,
                            .gather = true});
  if (param_grad(up->bias_param))
    bias_gradient((sum_job){.run = run, .grad = up->bias_param->grad, .rows = run->dgu, .cols = 2 * run->F});
}

static void moe_backward_run(train_run *run, real *dx) {
  const ie_weight *up = run->options->gate_up, *down = run->options->down;
  ie_ctx *ctx = run->ctx;
  moe_pairs_sort(&run->pairs, ie_tensor_i32(run->expert));
  weight_products(run, down, /*transposed=*/false, run->dy, /*gather=*/true, run->h);
  if (run->bias_dot) bias_products(run);
  if (ctx->status != IE_OK) return;
  ie_team_for(ctx->device->team, run->pairs.P, /*chunk=*/4, activate_backward, run);
  parameter_gradients(run);
  if (!dx) return;
  weight_products(run, up, /*transposed=*/false, run->dgu, /*gather=*/false, run->out);
  run->y = dx;
  run->weight = NULL;
  if (ctx->status == IE_OK) ie_team_for(ctx->device->team, run->pairs.T, /*chunk=*/4, train_combine, run);
}

static void cpu_moe_backward(ie_ctx *ctx, const ie_moe_grads *to, const real *dy, const ie_tensor *gate_up,
                             const ie_tensor *x, ie_tensor *const routing[2], const ie_moe_options *options) {
  train_run run = {.ctx = ctx, .options = options, .expert = routing[0]};
  ie_ctx_mark mark = ie_ctx_save(ctx);
  if (train_take(&run) && scratch_numbers(ctx, run.pairs.P, 2 * run.F, &run.dgu) &&
      scratch_numbers(ctx, run.pairs.T, run.pairs.E, &run.bias_dot)) {
    if (ctx->dry) {
      ie_cpu_gemm(ctx, NULL, 0);
    } else {
      run.x = ie_tensor_f32(x);
      run.weight = ie_tensor_f32(routing[1]);
      run.gu = ie_tensor_f32(gate_up);
      run.dy = dy;
      run.dweight = to->weight;
      if (!to->weight || !(options->down->bias || options->down->bias_param)) run.bias_dot = NULL;
      moe_backward_run(&run, to->x);
    }
  }
  ie_ctx_reset(ctx, mark);
}

void ie_cpu_fill_moe_train(ie_device_ops *ops) {
  ops->moe_train = cpu_moe_train;
  ops->moe_backward = cpu_moe_backward;
}
