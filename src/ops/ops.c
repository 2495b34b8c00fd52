#include "ops/ops.h"

#include "base/size.h"

#include <math.h>

/* Refuses an op that the device lacks, by name. */
#define OP_LAUNCHER(ctx, entry)                                                                              \
  ((ctx)->device->ops.entry != NULL ||                                                                       \
   (ie_ctx_fail(ctx, IE_UNSUPPORTED, "%s: device %s has no such operation", #entry, (ctx)->device->kind),    \
    false))

static bool shape_is(ie_ctx *ctx, const char *op, const char *what, int64_t found, int64_t expected) {
  if (found == expected) return true;
  ie_ctx_fail(ctx, IE_FORMAT, "%s: %s: expected %lld, found %lld", op, what, (long long)expected,
              (long long)found);
  return false;
}

static bool type_is_float(ie_ctx *ctx, const char *op, const char *what, ie_dtype dtype) {
  if (dtype == IE_F32 || dtype == IE_F16 || dtype == IE_BF16) return true;
  ie_ctx_fail(ctx, IE_UNSUPPORTED, "%s: %s: expected F32, F16 or BF16, found %s", op, what,
              ie_dtype_name(dtype));
  return false;
}

static bool vector_is_read(ie_ctx *ctx, const char *op, const char *what, const ie_vector *v) {
  return !v->data || type_is_float(ctx, op, what, v->dtype);
}

/* A dry run has the shape of a cache and no type yet. An int8 cache keeps its newest positions in a float type. */
static bool cache_is_read(ie_ctx *ctx, const char *op, const ie_kv_layer *kv) {
  if (ctx->dry) return true;
  if (kv->dtype == IE_I8 && kv->recent) kv = kv->recent;
  return type_is_float(ctx, op, "cache", kv->dtype);
}

/* A weight whose format and arithmetic class the device has no kernel for is refused by name. */
static bool weight_is_read(ie_ctx *ctx, const char *op, const ie_weight *w) {
  if (w->bias && !type_is_float(ctx, op, "bias", w->bias_dtype)) return false;
  if (w->few && w->few->run) return true;
  ie_ctx_fail(ctx, IE_UNSUPPORTED,
              "%s: %s: device %s has no product with weights of format %s in this precision", op, w->name,
              ctx->device->kind, ie_wformat_describe(w->format)->name);
  return false;
}

static ie_tensor *tensor_2d(ie_ctx *ctx, ie_dtype dtype, int64_t rows, int64_t cols) {
  return ie_ctx_tensor(ctx, dtype, 2, (int64_t[]){rows, cols});
}

ie_tensor *ie_op_embed(ie_ctx *ctx, const ie_weight *w, const ie_batch *batch) {
  if (!OP_LAUNCHER(ctx, embed)) return NULL;
  if (!(ctx->device->ops.embed_formats >> w->format & 1)) {
    ie_ctx_fail(ctx, IE_UNSUPPORTED, "embed: %s: device %s reads no rows of format %s", w->name,
                ctx->device->kind, ie_wformat_describe(w->format)->name);
    return NULL;
  }
  ie_tensor *y = tensor_2d(ctx, IE_F32, batch->tokens, w->cols);
  if (y) ctx->device->ops.embed(ctx, y, w, batch);
  return y;
}

ie_tensor *ie_op_rms_norm(ie_ctx *ctx, const ie_tensor *x, const ie_vector *weight, float eps) {
  if (!x || !OP_LAUNCHER(ctx, rms_norm) ||
      !shape_is(ctx, "rms_norm", "width", x->shape[x->rank - 1], weight->n) ||
      !vector_is_read(ctx, "rms_norm", "weight", weight))
    return NULL;
  ie_tensor *y = ie_ctx_tensor(ctx, IE_F32, x->rank, x->shape);
  if (y) ctx->device->ops.rms_norm(ctx, y, x, weight, eps);
  return y;
}

/* x as (T, K) whatever its rank: the trailing dimensions are one row. */
static ie_tensor as_rows(const ie_tensor *x) {
  ie_tensor rows = *x;
  rows.rank = 2;
  rows.shape[1] = ie_tensor_count(x) / ie_max_i64(1, x->shape[0]);
  rows.shape[2] = rows.shape[3] = 1;
  return rows;
}

ie_tensor *ie_op_linear(ie_ctx *ctx, const ie_tensor *x, const ie_weight *w) {
  if (!x || !OP_LAUNCHER(ctx, linear)) return NULL;
  ie_tensor rows = as_rows(x);
  if (!shape_is(ctx, "linear", w->name, rows.shape[1], w->cols) || !weight_is_read(ctx, "linear", w))
    return NULL;
  ie_tensor *y = tensor_2d(ctx, IE_F32, x->shape[0], w->rows);
  if (y) ctx->device->ops.linear(ctx, &y, &rows, &w, /*n=*/1, /*add=*/false);
  return y;
}

ie_qkv ie_op_qkv(ie_ctx *ctx, const ie_tensor *x, const ie_weight *wq, const ie_weight *wk,
                 const ie_weight *wv, int64_t head_dim) {
  ie_qkv out = {0};
  if (!x || !OP_LAUNCHER(ctx, linear)) return out;
  const ie_weight *w[3] = {wq, wk, wv};
  ie_tensor *y[3];
  for (int i = 0; i < 3; i++) {
    if (!shape_is(ctx, "qkv", w[i]->name, x->shape[1], w[i]->cols) || !weight_is_read(ctx, "qkv", w[i]))
      return out;
    y[i] = tensor_2d(ctx, IE_F32, x->shape[0], w[i]->rows);
    if (!y[i]) return out;
  }
  ctx->device->ops.linear(ctx, y, x, w, /*n=*/3, /*add=*/false);
  for (int i = 0; i < 3; i++) {
    y[i]->rank = 3;
    y[i]->shape[1] = w[i]->rows / head_dim;
    y[i]->shape[2] = head_dim;
  }
  return (ie_qkv){.q = y[0], .k = y[1], .v = y[2]};
}

ie_tensor *ie_op_swiglu(ie_ctx *ctx, const ie_tensor *x, const ie_weight *gate, const ie_weight *up) {
  if (!x || !OP_LAUNCHER(ctx, linear) || !OP_LAUNCHER(ctx, swiglu)) return NULL;
  const ie_weight *w[2] = {gate, up};
  ie_tensor *y[2];
  for (int i = 0; i < 2; i++) {
    if (!shape_is(ctx, "swiglu", w[i]->name, x->shape[1], w[i]->cols) ||
        !shape_is(ctx, "swiglu", w[i]->name, w[i]->rows, gate->rows) || !weight_is_read(ctx, "swiglu", w[i]))
      return NULL;
    y[i] = tensor_2d(ctx, IE_F32, x->shape[0], w[i]->rows);
    if (!y[i]) return NULL;
  }
  ctx->device->ops.linear(ctx, y, x, w, /*n=*/2, /*add=*/false);
  ctx->device->ops.swiglu(ctx, y[0], y[0], y[1]);
  return y[0];
}

ie_tensor *ie_op_linear_residual(ie_ctx *ctx, ie_tensor *residual, const ie_tensor *x, const ie_weight *w) {
  if (!residual || !x || !OP_LAUNCHER(ctx, linear)) return NULL;
  ie_tensor rows = as_rows(x);
  if (!shape_is(ctx, "linear_residual", w->name, rows.shape[1], w->cols) ||
      !shape_is(ctx, "linear_residual", "residual width", residual->shape[1], w->rows) ||
      !weight_is_read(ctx, "linear_residual", w))
    return NULL;
  ctx->device->ops.linear(ctx, &residual, &rows, &w, /*n=*/1, /*add=*/true);
  return residual;
}

ie_rope_table ie_op_rope_table(ie_ctx *ctx, const ie_batch *batch, const float *inv_freq, int64_t half,
                               float scale, bool bf16) {
  ie_rope_table table = {tensor_2d(ctx, IE_F32, batch->tokens, half),
                         tensor_2d(ctx, IE_F32, batch->tokens, half)};
  if (!table.cos || !table.sin || !OP_LAUNCHER(ctx, rope_table)) return (ie_rope_table){0};
  ctx->device->ops.rope_table(ctx, table.cos, table.sin, batch, inv_freq, scale, bf16);
  return table;
}

ie_tensor *ie_op_rope(ie_ctx *ctx, ie_tensor *x, ie_rope_table table) {
  if (!x || !table.cos || !OP_LAUNCHER(ctx, rope)) return NULL;
  if (2 * table.cos->shape[1] > x->shape[2]) {
    ie_ctx_fail(ctx, IE_FORMAT, "rope: %lld rotated dimensions, but a head has %lld",
                (long long)(2 * table.cos->shape[1]), (long long)x->shape[2]);
    return NULL;
  }
  ctx->device->ops.rope(ctx, x, table.cos, table.sin);
  return x;
}

void ie_op_kv_append(ie_ctx *ctx, ie_kv_layer *kv, const ie_tensor *k, const ie_tensor *v,
                     const ie_batch *batch) {
  if (!k || !v || !OP_LAUNCHER(ctx, kv_append)) return;
  if (!shape_is(ctx, "kv_append", "heads", k->shape[1], kv->heads) ||
      !shape_is(ctx, "kv_append", "head dimension", k->shape[2], kv->dim) ||
      !cache_is_read(ctx, "kv_append", kv))
    return;
  ctx->device->ops.kv_append(ctx, kv, k, v, batch);
}

ie_tensor *ie_op_attention(ie_ctx *ctx, const ie_tensor *q, const ie_kv_layer *kv, const ie_batch *batch,
                           const ie_attention_options *options) {
  if (!q || !OP_LAUNCHER(ctx, attention)) return NULL;
  if (!shape_is(ctx, "attention", "head dimension", q->shape[2], kv->dim) ||
      !shape_is(ctx, "attention", "query heads beyond a multiple of the KV heads", q->shape[1] % kv->heads,
                0) ||
      (options->sinks.data && !shape_is(ctx, "attention", "sinks", options->sinks.n, q->shape[1])) ||
      !cache_is_read(ctx, "attention", kv) ||
      (kv->recent && !shape_is(ctx, "attention", "window over an int8 cache", options->window, 0)) ||
      !vector_is_read(ctx, "attention", "sinks", &options->sinks))
    return NULL;
  ie_tensor *y = tensor_2d(ctx, IE_F32, q->shape[0], q->shape[1] * q->shape[2]);
  if (y) ctx->device->ops.attention(ctx, y, q, kv, batch, options);
  return y;
}

ie_routing ie_op_route(ie_ctx *ctx, const ie_tensor *logits, const ie_route_options *options) {
  ie_routing out = {0};
  if (!logits || !OP_LAUNCHER(ctx, route)) return out;
  if (options->top_k < 1 || options->top_k > logits->shape[1]) {
    ie_ctx_fail(ctx, IE_FORMAT, "route: %lld experts of %lld", (long long)options->top_k,
                (long long)logits->shape[1]);
    return out;
  }
  out.expert = tensor_2d(ctx, IE_I32, logits->shape[0], options->top_k);
  out.weight = tensor_2d(ctx, IE_F32, logits->shape[0], options->top_k);
  if (out.expert && out.weight) ctx->device->ops.route(ctx, out.expert, out.weight, logits, options);
  return out;
}

ie_tensor *ie_op_moe_residual(ie_ctx *ctx, ie_tensor *residual, const ie_tensor *x, ie_routing routing,
                              const ie_moe_options *options) {
  if (!residual || !x || !routing.expert || !routing.weight || !OP_LAUNCHER(ctx, moe)) return NULL;
  const ie_weight *up = options->gate_up, *down = options->down;
  if (!shape_is(ctx, "moe", up->name, x->shape[1], up->cols) ||
      !shape_is(ctx, "moe", down->name, down->cols * 2, up->rows) ||
      !shape_is(ctx, "moe", "residual width", residual->shape[1], down->rows) ||
      !shape_is(ctx, "moe", "experts", down->experts, up->experts) || !weight_is_read(ctx, "moe", up) ||
      !weight_is_read(ctx, "moe", down))
    return NULL;
  ctx->device->ops.moe(ctx, residual, x, routing.expert, routing.weight, options);
  return residual;
}

ie_tensor *ie_op_layer_norm(ie_ctx *ctx, const ie_tensor *x, const ie_vector *weight, const ie_vector *bias,
                            float eps) {
  if (!x || !OP_LAUNCHER(ctx, layer_norm) || !shape_is(ctx, "layer_norm", "width", x->shape[1], weight->n) ||
      !shape_is(ctx, "layer_norm", "bias", bias->n, weight->n) ||
      !vector_is_read(ctx, "layer_norm", "weight", weight) ||
      !vector_is_read(ctx, "layer_norm", "bias", bias) ||
      !shape_is(ctx, "layer_norm", "type of the bias", (int64_t)bias->dtype, (int64_t)weight->dtype))
    return NULL;
  ie_tensor *y = ie_ctx_tensor(ctx, IE_F32, x->rank, x->shape);
  if (y) ctx->device->ops.layer_norm(ctx, y, x, weight, bias, eps);
  return y;
}

ie_tensor *ie_op_linear_activation(ie_ctx *ctx, const ie_tensor *x, const ie_weight *w,
                                   ie_activation activation) {
  ie_tensor *y = ie_op_linear(ctx, x, w);
  if (!y || !OP_LAUNCHER(ctx, activate)) return NULL;
  ctx->device->ops.activate(ctx, y, activation);
  return y;
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
  return (ie_qkv){.q = y[0], .k = y[1], .v = y[2]};
}

ie_tensor *ie_op_soft_cap(ie_ctx *ctx, ie_tensor *x, float cap) {
  if (!x || !OP_LAUNCHER(ctx, soft_cap)) return NULL;
  ctx->device->ops.soft_cap(ctx, x, cap);
  return x;
}

ie_tensor *ie_op_gather_wanted(ie_ctx *ctx, const ie_tensor *x, const ie_batch *batch) {
  if (!x || !OP_LAUNCHER(ctx, gather_rows)) return NULL;
  ie_tensor *y = tensor_2d(ctx, IE_F32, batch->wanted_count, x->shape[1]);
  if (y) ctx->device->ops.gather_rows(ctx, y, x, batch->wanted);
  return y;
}

ie_tensor *ie_op_check_finite(ie_ctx *ctx, ie_tensor *x, const char *what) {
  if (!x || !OP_LAUNCHER(ctx, find_nonfinite)) return NULL;
  int64_t at = ctx->device->ops.find_nonfinite(ctx, x);
  if (at < 0) return x;
  float bad = ie_tensor_f32(x)[at];
  int64_t width = ie_tensor_count(x) / ie_max_i64(1, x->shape[0]);
  return ie_ctx_fail(ctx, IE_NUMERIC, "%s: %s at token %lld of this forward, column %lld", what,
                     isnan(bad) ? "NaN" : "infinity", (long long)(at / width), (long long)(at % width));
}
