/* Positions, cache and attention. */
#include "ops/check.h"
#include "ops/ops.h"

/* A dry run has the shape of a cache and no type yet. An int8 cache keeps its newest positions in a float type. */
static bool cache_is_read(ie_ctx *ctx, const char *op, const ie_kv_layer *kv) {
  if (ctx->dry || ctx->tape) return true;
  if (kv->dtype == IE_I8 && kv->recent) kv = kv->recent;
  return ie_op_type_is_float(ctx, op, "cache", kv->dtype);
}

ie_rope_table ie_op_rope_table(ie_ctx *ctx, const ie_batch *batch, const float *inv_freq, int64_t half,
                               float scale, bool bf16) {
  ie_rope_table table = {ie_op_tensor_2d(ctx, IE_F32, batch->tokens, half),
                         ie_op_tensor_2d(ctx, IE_F32, batch->tokens, half)};
  if (!table.cos || !table.sin || !OP_LAUNCHER(ctx, rope_table)) return (ie_rope_table){0};
  ctx->device->ops.rope_table(ctx, table.cos, table.sin, batch, inv_freq, scale, bf16);
  return table;
}

typedef struct rope_closure {
  ie_tensor *x;
  ie_rope_table table;
} rope_closure;

/* The pairs of x turned by their angles, in place: their gradients are turned back. */
static void rope_backward(ie_ctx *ctx, const void *closure) {
  const rope_closure *c = closure;
  ctx->device->ops.rope_backward(ctx, c->x->grad, c->x, c->table.cos, c->table.sin);
}

ie_tensor *ie_op_rope(ie_ctx *ctx, ie_tensor *x, ie_rope_table table) {
  if (!x || !table.cos || !OP_LAUNCHER(ctx, rope)) return NULL;
  if (2 * table.cos->shape[1] > x->shape[2]) {
    ie_ctx_fail(ctx, IE_FORMAT, "rope: %lld rotated dimensions, but a head has %lld",
                (long long)(2 * table.cos->shape[1]), (long long)x->shape[2]);
    return NULL;
  }
  ctx->device->ops.rope(ctx, x, table.cos, table.sin);
  rope_closure *c = ie_tape_record(ctx, rope_backward, x, sizeof *c, ie_tape_needs(x));
  if (c && OP_LAUNCHER(ctx, rope_backward)) *c = (rope_closure){x, table};
  return x;
}

void ie_op_kv_append(ie_ctx *ctx, ie_kv_layer *kv, const ie_tensor *k, const ie_tensor *v,
                     const ie_batch *batch) {
  if (!k || !v || !OP_LAUNCHER(ctx, kv_append)) return;
  if (!ie_op_shape_is(ctx, "kv_append", "heads", k->shape[1], kv->heads) ||
      !ie_op_shape_is(ctx, "kv_append", "head dimension", k->shape[2], kv->dim) ||
      !cache_is_read(ctx, "kv_append", kv))
    return;
  if (ctx->tape) {
    kv->step_k = k;
    kv->step_v = v;
    return;
  }
  ctx->device->ops.kv_append(ctx, kv, k, v, batch);
}

typedef struct attention_closure {
  ie_tensor *y, *lse;
  ie_attention_inputs in;
  ie_batch batch;
  ie_attention_options options;
} attention_closure;

/* y = softmax(scale q k^T) v */
static void attention_backward(ie_ctx *ctx, const void *closure) {
  const attention_closure *c = closure;
  ie_param *sinks = c->options.sinks.param;
  const ie_attention_grads to = {.q = ie_tape_grad(ctx, c->in.q),
                                 .k = ie_tape_grad(ctx, c->in.k),
                                 .v = ie_tape_grad(ctx, c->in.v),
                                 .prefix_k = ie_tape_grad(ctx, c->in.prefix_k),
                                 .prefix_v = ie_tape_grad(ctx, c->in.prefix_v),
                                 .sinks = sinks ? sinks->grad : NULL};
  ctx->device->ops.attention_backward(ctx, &to, c->y->grad, c->y, c->lse, &c->in, &c->batch, &c->options);
  ie_tape_param_done(ctx, sinks);
}

static ie_tensor *attention_train(ie_ctx *ctx, ie_tensor *y, const ie_tensor *q, const ie_kv_layer *kv,
                                  const ie_batch *batch, const ie_attention_options *options) {
  if (!OP_LAUNCHER(ctx, attention_train) || !OP_LAUNCHER(ctx, attention_backward)) return NULL;
  const ie_attention_inputs in = {q, kv->step_k, kv->step_v, kv->prefix_k, kv->prefix_v};
  if (!in.k || !in.v)
    return ie_ctx_fail(ctx, IE_INTERNAL, "attention: no keys were appended in this forward");
  ie_tensor *lse = ie_op_tensor_2d(ctx, IE_F32, q->shape[0], q->shape[1]);
  if (!lse) return NULL;
  ctx->device->ops.attention_train(ctx, y, lse, &in, batch, options);
  bool needs = ie_tape_needs(q) || ie_tape_needs(in.k) || ie_tape_needs(in.v) || ie_tape_needs(in.prefix_k) ||
               ie_tape_needs(in.prefix_v) || options->sinks.param;
  attention_closure *c = ie_tape_record(ctx, attention_backward, y, sizeof *c, needs);
  if (!c) return y;
  *c = (attention_closure){y, lse, in, *batch, *options};
  ie_tape_param_used(options->sinks.param);
  return y;
}

ie_tensor *ie_op_attention(ie_ctx *ctx, const ie_tensor *q, const ie_kv_layer *kv, const ie_batch *batch,
                           const ie_attention_options *options) {
  if (!q || !OP_LAUNCHER(ctx, attention)) return NULL;
  if (!ie_op_shape_is(ctx, "attention", "head dimension", q->shape[2], kv->dim) ||
      !ie_op_shape_is(ctx, "attention", "query heads beyond a multiple of the KV heads",
                      q->shape[1] % kv->heads, 0) ||
      (options->sinks.data && !ie_op_shape_is(ctx, "attention", "sinks", options->sinks.n, q->shape[1])) ||
      !cache_is_read(ctx, "attention", kv) ||
      (kv->recent && !ie_op_shape_is(ctx, "attention", "window over an int8 cache", options->window, 0)) ||
      !ie_op_vector_is_read(ctx, "attention", "sinks", &options->sinks))
    return NULL;
  ie_tensor *y = ie_op_tensor_2d(ctx, IE_F32, q->shape[0], q->shape[1] * q->shape[2]);
  if (!y) return NULL;
  if (ctx->tape) return attention_train(ctx, y, q, kv, batch, options);
  ctx->device->ops.attention(ctx, y, q, kv, batch, options);
  return y;
}
