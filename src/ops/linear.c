/* Products with weights, and what is made of them: qkv, MLPs, residual sums, adapters. */
#include "ops/check.h"
#include "ops/ops.h"

/* --- y = or += x W^T + b ------------------------------------------------------------------------------------ */

typedef struct linear_closure {
  ie_tensor *y;
  const ie_tensor *x; /* whose gradient is wanted */
  ie_tensor rows;     /* x as (T, K) */
  const ie_weight *w;
} linear_closure;

/* y += x W^T + b */
static void linear_backward(ie_ctx *ctx, const void *closure) {
  const linear_closure *c = closure;
  ctx->device->ops.linear_backward(ctx, ie_tape_grad(ctx, c->x), c->y->grad, &c->rows, c->w);
  ie_tape_param_done(ctx, c->w->param);
  ie_tape_param_done(ctx, c->w->bias_param);
}

typedef struct scale_closure {
  ie_tensor *x;
  float factor;
} scale_closure;

/* x = factor x, in place */
static void scale_backward(ie_ctx *ctx, const void *closure) {
  const scale_closure *c = closure;
  ctx->device->ops.scale(ctx, c->x->grad, ie_tensor_count(c->x), c->factor);
}

static void linear_record(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_weight *w) {
  bool needs = ie_tape_needs(x) || w->param || w->bias_param;
  linear_closure *c = ie_tape_record(ctx, linear_backward, y, sizeof *c, needs);
  if (!c) return;
  *c = (linear_closure){y, x, ie_op_as_rows(x), w};
  ie_tape_param_used(w->param);
  ie_tape_param_used(w->bias_param);
}

static void launch(ie_ctx *ctx, ie_tensor *const *y, const ie_tensor *x, const ie_weight *const *w, int n,
                   bool add) {
  ie_tensor rows = ie_op_as_rows(x);
  if (!ctx->tape) {
    ctx->device->ops.linear(ctx, y, &rows, w, n, add);
    return;
  }
  for (int i = 0; i < n && ctx->status == IE_OK; i++) {
    ctx->device->ops.linear_train(ctx, y[i], &rows, w[i], add);
    linear_record(ctx, y[i], x, w[i]);
  }
}

/* y += scale (x A^T) B^T, Hu et al. 2021. */
static void adapter_add(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_low_rank *adapter) {
  if (!OP_LAUNCHER(ctx, scale)) return;
  const ie_weight *a = &adapter->a, *b = &adapter->b;
  ie_ctx_mark mark = ie_ctx_save(ctx);
  ie_tensor *h = ie_op_tensor_2d(ctx, IE_F32, x->shape[0], a->rows);
  if (!h) return;
  launch(ctx, &h, x, &a, /*n=*/1, /*add=*/false);
  ctx->device->ops.scale(ctx, ie_tensor_f32(h), ie_tensor_count(h), adapter->scale);
  scale_closure *c = ie_tape_record(ctx, scale_backward, h, sizeof *c, ie_tape_needs(h));
  if (c) *c = (scale_closure){h, adapter->scale};
  launch(ctx, &y, h, &b, /*n=*/1, /*add=*/true);
  if (!ie_tape_records(ctx)) ie_ctx_reset(ctx, mark);
}

/* y[i] = or += x w[i]^T + b for n weights that share x, with their adapters. False after a failure. */
static bool products(ie_ctx *ctx, ie_tensor *const *y, const ie_tensor *x, const ie_weight *const *w, int n,
                     bool add) {
  if (ctx->tape ? !OP_LAUNCHER(ctx, linear_train) || !OP_LAUNCHER(ctx, linear_backward)
                : !OP_LAUNCHER(ctx, linear))
    return false;
  launch(ctx, y, x, w, n, add);
  for (int i = 0; i < n; i++)
    if (w[i]->low_rank) adapter_add(ctx, y[i], x, w[i]->low_rank);
  return ctx->status == IE_OK;
}

/* New tensors (T, R_i) = x w[i]^T + b. */
static bool products_new(ie_ctx *ctx, const char *op, ie_tensor **y, const ie_tensor *x,
                         const ie_weight *const *w, int n) {
  int64_t cols = ie_op_as_rows(x).shape[1];
  for (int i = 0; i < n; i++) {
    if (!ie_op_shape_is(ctx, op, w[i]->name, cols, w[i]->cols) || !ie_op_weight_is_read(ctx, op, w[i]))
      return false;
    if (!(y[i] = ie_op_tensor_2d(ctx, IE_F32, x->shape[0], w[i]->rows))) return false;
  }
  return products(ctx, y, x, w, n, /*add=*/false);
}

ie_tensor *ie_op_linear(ie_ctx *ctx, const ie_tensor *x, const ie_weight *w) {
  ie_tensor *y;
  return x && products_new(ctx, "linear", &y, x, &w, /*n=*/1) ? y : NULL;
}

ie_tensor *ie_op_linear_residual(ie_ctx *ctx, ie_tensor *residual, const ie_tensor *x, const ie_weight *w) {
  if (!residual || !x) return NULL;
  if (!ie_op_shape_is(ctx, "linear_residual", w->name, ie_op_as_rows(x).shape[1], w->cols) ||
      !ie_op_shape_is(ctx, "linear_residual", "residual width", residual->shape[1], w->rows) ||
      !ie_op_weight_is_read(ctx, "linear_residual", w))
    return NULL;
  ie_tensor *y = ie_op_residual(ctx, residual);
  return y && products(ctx, &y, x, &w, /*n=*/1, /*add=*/true) ? y : NULL;
}

/* --- Queries, keys and values -------------------------------------------------------------------------------- */

ie_qkv ie_op_qkv(ie_ctx *ctx, const ie_tensor *x, const ie_weight *wq, const ie_weight *wk,
                 const ie_weight *wv, int64_t head_dim) {
  const ie_weight *w[3] = {wq, wk, wv};
  ie_tensor *y[3];
  if (!x || !products_new(ctx, "qkv", y, x, w, /*n=*/3)) return (ie_qkv){0};
  for (int i = 0; i < 3; i++) {
    y[i]->rank = 3;
    y[i]->shape[1] = w[i]->rows / head_dim;
    y[i]->shape[2] = head_dim;
  }
  return (ie_qkv){.q = y[0], .k = y[1], .v = y[2]};
}

typedef struct split_closure {
  ie_tensor *x;
  ie_tensor *y[3];
} split_closure;

/* y[i] = the i-th part of each head of x. Recorded at v, which attention always gives a gradient. */
static void split_backward(ie_ctx *ctx, const void *closure) {
  const split_closure *c = closure;
  real *dy[3];
  for (int i = 0; i < 3; i++) dy[i] = ie_tape_grad(ctx, c->y[i]);
  ctx->device->ops.split_heads_backward(ctx, ie_tape_grad(ctx, c->x), (const real *const *)dy, c->y[0]);
}

ie_qkv ie_op_qkv_interleaved(ie_ctx *ctx, const ie_tensor *x, const ie_weight *w, int64_t head_dim) {
  ie_qkv out = {0};
  ie_tensor *fused = ie_op_linear(ctx, x, w);
  if (!fused || !OP_LAUNCHER(ctx, split_heads)) return out;
  const int64_t shape[3] = {x->shape[0], w->rows / (3 * head_dim), head_dim};
  ie_tensor *y[3];
  for (int i = 0; i < 3; i++)
    if (!(y[i] = ie_ctx_tensor(ctx, IE_F32, 3, shape))) return out;
  ctx->device->ops.split_heads(ctx, y, fused);
  split_closure *c = ie_tape_record(ctx, split_backward, y[2], sizeof *c, ie_tape_needs(fused));
  if (c) {
    if (!OP_LAUNCHER(ctx, split_heads_backward)) return out;
    *c = (split_closure){fused, {y[0], y[1], y[2]}};
    y[0]->needs_grad = y[1]->needs_grad = true;
  }
  return (ie_qkv){.q = y[0], .k = y[1], .v = y[2]};
}

/* --- MLPs ----------------------------------------------------------------------------------------------------- */

typedef struct swiglu_closure {
  ie_tensor *y, *gate, *up;
} swiglu_closure;

/* y = silu(gate) * up */
static void swiglu_backward(ie_ctx *ctx, const void *closure) {
  const swiglu_closure *c = closure;
  ctx->device->ops.swiglu_backward(ctx, ie_tape_grad(ctx, c->gate), ie_tape_grad(ctx, c->up), c->y->grad,
                                   c->gate, c->up);
}

ie_tensor *ie_op_swiglu(ie_ctx *ctx, const ie_tensor *x, const ie_weight *gate, const ie_weight *up) {
  const ie_weight *w[2] = {gate, up};
  ie_tensor *a[2];
  if (!x || !OP_LAUNCHER(ctx, swiglu) || !ie_op_shape_is(ctx, "swiglu", up->name, up->rows, gate->rows) ||
      !products_new(ctx, "swiglu", a, x, w, /*n=*/2))
    return NULL;
  ie_tensor *y = ie_tape_records(ctx) ? ie_ctx_tensor(ctx, IE_F32, a[0]->rank, a[0]->shape) : a[0];
  if (!y) return NULL;
  ctx->device->ops.swiglu(ctx, y, a[0], a[1]);
  bool needs = ie_tape_needs(a[0]) || ie_tape_needs(a[1]);
  swiglu_closure *c = ie_tape_record(ctx, swiglu_backward, y, sizeof *c, needs);
  if (c && OP_LAUNCHER(ctx, swiglu_backward)) *c = (swiglu_closure){y, a[0], a[1]};
  return y;
}

typedef struct activate_closure {
  ie_tensor *y, *x;
  ie_activation activation;
} activate_closure;

/* y = activation(x) */
static void activate_backward(ie_ctx *ctx, const void *closure) {
  const activate_closure *c = closure;
  ctx->device->ops.activate_backward(ctx, ie_tape_grad(ctx, c->x), c->y->grad, c->x, c->activation);
}

ie_tensor *ie_op_linear_activation(ie_ctx *ctx, const ie_tensor *x, const ie_weight *w,
                                   ie_activation activation) {
  ie_tensor *a = ie_op_linear(ctx, x, w), *y = a;
  if (!a || !OP_LAUNCHER(ctx, activate)) return NULL;
  if (ie_tape_records(ctx) && ie_tape_needs(a)) {
    if (!OP_LAUNCHER(ctx, copy) || !OP_LAUNCHER(ctx, activate_backward)) return NULL;
    if (!(y = ie_ctx_tensor(ctx, IE_F32, a->rank, a->shape))) return NULL;
    ctx->device->ops.copy(ctx, y, a);
    activate_closure *c = ie_tape_record(ctx, activate_backward, y, sizeof *c, /*needs=*/true);
    if (c) *c = (activate_closure){y, a, activation};
  }
  ctx->device->ops.activate(ctx, y, activation);
  return y;
}
