/* Operations on single rows: embedding, norms, soft cap, choice of rows, the check for NaN; and the loss. */
#include "ops/check.h"
#include "ops/ops.h"

#include "base/size.h"

#include <math.h>

/* --- Rows of a table ------------------------------------------------------------------------------------------- */

typedef struct embed_closure {
  ie_tensor *y;
  const ie_weight *w;
  ie_batch batch;
} embed_closure;

/* y[t] = w[ids[t]] */
static void embed_backward(ie_ctx *ctx, const void *closure) {
  const embed_closure *c = closure;
  ctx->device->ops.embed_backward(ctx, c->y->grad, c->w, &c->batch);
  ie_tape_param_done(ctx, c->w->param);
}

ie_tensor *ie_op_embed(ie_ctx *ctx, const ie_weight *w, const ie_batch *batch) {
  if (!OP_LAUNCHER(ctx, embed)) return NULL;
  if (!(ctx->device->ops.embed_formats >> w->format & 1)) {
    ie_ctx_fail(ctx, IE_UNSUPPORTED, "embed: %s: device %s reads no rows of format %s", w->name,
                ctx->device->kind, ie_wformat_describe(w->format)->name);
    return NULL;
  }
  ie_tensor *y = ie_op_tensor_2d(ctx, IE_F32, batch->tokens, w->cols);
  if (!y) return NULL;
  ctx->device->ops.embed(ctx, y, w, batch);
  embed_closure *c = ie_tape_record(ctx, embed_backward, y, sizeof *c, w->param != NULL);
  if (c && OP_LAUNCHER(ctx, embed_backward)) {
    *c = (embed_closure){y, w, *batch};
    ie_tape_param_used(w->param);
  }
  return y;
}

typedef struct gather_closure {
  ie_tensor *y, *x;
  const int32_t *index;
} gather_closure;

/* y[t] = x[index[t]] */
static void gather_backward(ie_ctx *ctx, const void *closure) {
  const gather_closure *c = closure;
  ctx->device->ops.gather_rows_backward(ctx, ie_tape_grad(ctx, c->x), c->y->grad, c->y->shape[1], c->index,
                                        c->y->shape[0]);
}

ie_tensor *ie_op_gather_wanted(ie_ctx *ctx, ie_tensor *x, const ie_batch *batch) {
  if (!x || !OP_LAUNCHER(ctx, gather_rows)) return NULL;
  ie_tensor *y = ie_op_tensor_2d(ctx, IE_F32, batch->wanted_count, x->shape[1]);
  if (!y) return NULL;
  ctx->device->ops.gather_rows(ctx, y, x, batch->wanted);
  gather_closure *c = ie_tape_record(ctx, gather_backward, y, sizeof *c, ie_tape_needs(x));
  if (c && OP_LAUNCHER(ctx, gather_rows_backward)) *c = (gather_closure){y, x, batch->wanted};
  return y;
}

/* --- Norms ------------------------------------------------------------------------------------------------------ */

typedef struct norm_closure {
  ie_tensor *y;
  const ie_tensor *x;
  const ie_vector *weight, *bias;
  float eps;
} norm_closure;

/* y = x / sqrt(mean(x^2) + eps) * weight */
static void rms_norm_backward(ie_ctx *ctx, const void *closure) {
  const norm_closure *c = closure;
  ctx->device->ops.rms_norm_backward(ctx, ie_tape_grad(ctx, c->x), c->y->grad, c->x, c->weight, c->eps);
  ie_tape_param_done(ctx, c->weight->param);
}

/* y = (x - mean) / sqrt(variance + eps) * weight + bias */
static void layer_norm_backward(ie_ctx *ctx, const void *closure) {
  const norm_closure *c = closure;
  ctx->device->ops.layer_norm_backward(ctx, ie_tape_grad(ctx, c->x), c->y->grad, c->x, c->weight, c->bias,
                                       c->eps);
  ie_tape_param_done(ctx, c->weight->param);
  ie_tape_param_done(ctx, c->bias->param);
}

ie_tensor *ie_op_rms_norm(ie_ctx *ctx, const ie_tensor *x, const ie_vector *weight, float eps) {
  if (!x || !OP_LAUNCHER(ctx, rms_norm) ||
      !ie_op_shape_is(ctx, "rms_norm", "width", x->shape[x->rank - 1], weight->n) ||
      !ie_op_vector_is_read(ctx, "rms_norm", "weight", weight))
    return NULL;
  ie_tensor *y = ie_ctx_tensor(ctx, IE_F32, x->rank, x->shape);
  if (!y) return NULL;
  ctx->device->ops.rms_norm(ctx, y, x, weight, eps);
  norm_closure *c = ie_tape_record(ctx, rms_norm_backward, y, sizeof *c, ie_tape_needs(x) || weight->param);
  if (c && OP_LAUNCHER(ctx, rms_norm_backward)) {
    *c = (norm_closure){y, x, weight, NULL, eps};
    ie_tape_param_used(weight->param);
  }
  return y;
}

ie_tensor *ie_op_layer_norm(ie_ctx *ctx, const ie_tensor *x, const ie_vector *weight, const ie_vector *bias,
                            float eps) {
  if (!x || !OP_LAUNCHER(ctx, layer_norm) ||
      !ie_op_shape_is(ctx, "layer_norm", "width", x->shape[1], weight->n) ||
      !ie_op_shape_is(ctx, "layer_norm", "bias", bias->n, weight->n) ||
      !ie_op_vector_is_read(ctx, "layer_norm", "weight", weight) ||
      !ie_op_vector_is_read(ctx, "layer_norm", "bias", bias) ||
      !ie_op_shape_is(ctx, "layer_norm", "type of the bias", (int64_t)bias->dtype, (int64_t)weight->dtype))
    return NULL;
  ie_tensor *y = ie_ctx_tensor(ctx, IE_F32, x->rank, x->shape);
  if (!y) return NULL;
  ctx->device->ops.layer_norm(ctx, y, x, weight, bias, eps);
  bool needs = ie_tape_needs(x) || weight->param || bias->param;
  norm_closure *c = ie_tape_record(ctx, layer_norm_backward, y, sizeof *c, needs);
  if (c && OP_LAUNCHER(ctx, layer_norm_backward)) {
    *c = (norm_closure){y, x, weight, bias, eps};
    ie_tape_param_used(weight->param);
    ie_tape_param_used(bias->param);
  }
  return y;
}

/* --- Logits ------------------------------------------------------------------------------------------------------ */

typedef struct soft_cap_closure {
  ie_tensor *x;
  float cap;
} soft_cap_closure;

/* x = cap tanh(x / cap), in place */
static void soft_cap_backward(ie_ctx *ctx, const void *closure) {
  const soft_cap_closure *c = closure;
  ctx->device->ops.soft_cap_backward(ctx, c->x->grad, c->x, c->cap);
}

ie_tensor *ie_op_soft_cap(ie_ctx *ctx, ie_tensor *x, float cap) {
  if (!x || !OP_LAUNCHER(ctx, soft_cap)) return NULL;
  ctx->device->ops.soft_cap(ctx, x, cap);
  soft_cap_closure *c = ie_tape_record(ctx, soft_cap_backward, x, sizeof *c, ie_tape_needs(x));
  if (c && OP_LAUNCHER(ctx, soft_cap_backward)) *c = (soft_cap_closure){x, cap};
  return x;
}

double ie_op_cross_entropy(ie_ctx *ctx, const ie_tensor *x, const ie_loss_options *options) {
  const ie_weight *head = options->head;
  if (!x || !OP_LAUNCHER(ctx, cross_entropy) ||
      !ie_op_shape_is(ctx, "cross_entropy", head->name, x->shape[1], head->cols))
    return 0.0;
  bool records = ie_tape_records(ctx);
  real *dx = records ? ie_tape_grad(ctx, x) : NULL;
  ie_weight fixed = *head;
  ie_low_rank low = head->low_rank ? *head->low_rank : (ie_low_rank){0};
  if (head->low_rank) fixed.low_rank = &low;
  if (!records) fixed.param = fixed.bias_param = low.a.param = low.b.param = NULL;
  ie_loss_options own = *options;
  own.head = &fixed;
  if (ctx->status != IE_OK) return 0.0;
  double loss = ctx->device->ops.cross_entropy(ctx, dx, x, &own);
  /* Of a head that is the embedding, the embedding's backward is the last use. */
  ie_param *const used[] = {fixed.param, fixed.bias_param, low.a.param, low.b.param};
  for (size_t i = 0; records && i < sizeof used / sizeof used[0]; i++)
    if (used[i] && used[i]->pending == 0) ie_tape_param_done(ctx, used[i]);
  if (!ctx->dry && !isfinite(loss))
    ie_ctx_fail(ctx, IE_NUMERIC, "the loss is %s", isnan(loss) ? "NaN" : "infinite");
  return loss;
}

ie_tensor *ie_op_check_finite(ie_ctx *ctx, ie_tensor *x, const char *what) {
  if (!x || !OP_LAUNCHER(ctx, find_nonfinite)) return NULL;
  int64_t at = ctx->device->ops.find_nonfinite(ctx, x, what);
  if (at < 0) return x;
  return ie_ctx_nonfinite(ctx, what, (double)ie_tensor_f32(x)[at], at,
                          ie_tensor_count(x) / ie_max_i64(1, x->shape[0]));
}
