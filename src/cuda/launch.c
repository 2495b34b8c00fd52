/* Launchers of operations on rows and elements, and what all launchers share. */
#include "cuda/cuda.h"

#include "base/size.h"

#include <math.h>

/* --- Shared ------------------------------------------------------------------------------------------------- */

bool cuda_launched(ie_ctx *ctx, const char *op, cudaError_t result) {
  if (result == cudaSuccess) return ctx->status == IE_OK;
  const cuda_device *device = cuda_of_ctx(ctx);
  cudaGetLastError();
  if (result == cudaErrorNotSupported)
    ie_ctx_fail(ctx, IE_UNSUPPORTED, "%s: device %s has no kernel for these types and sizes", op,
                device->base.kind);
  else
    ie_ctx_fail(ctx, result == cudaErrorInvalidValue ? IE_INTERNAL : IE_DEVICE, "%s: %s: %s",
                device->base.name, op, cudaGetErrorString(result));
  return false;
}

ie_cuda_check cuda_check_new(ie_ctx *ctx, cuda_check_kind kind, const char *what, int64_t width,
                             int64_t group) {
  cuda_device *device = cuda_of_ctx(ctx);
  cuda_trace *trace = device->trace;
  if (!trace) return (ie_cuda_check){0};
  if (trace->checks == CUDA_CHECKS_MAX) {
    ie_ctx_fail(ctx, IE_INTERNAL, "more than %d checks in one forward", CUDA_CHECKS_MAX);
    return (ie_cuda_check){0};
  }
  trace->check[trace->checks] =
      (cuda_check){.kind = kind, .what = what, .layer = ctx->layer, .width = width, .group = group};
  return (ie_cuda_check){.fault = device->fault, .where = trace->checks++};
}

/* The check that find_nonfinite left for x, if it did. */
static ie_cuda_check pending_take(ie_ctx *ctx, const ie_tensor *x) {
  cuda_pending *pending = &cuda_of_ctx(ctx)->pending;
  if (!pending->checked || pending->checked != x->data || pending->checked_numbers != ie_tensor_count(x))
    return (ie_cuda_check){0};
  ie_cuda_check check = pending->check;
  pending->checked = NULL;
  return check;
}

void cuda_flush(ie_ctx *ctx) {
  cuda_device *device = cuda_of_ctx(ctx);
  cuda_pending pending = device->pending;
  device->pending = (cuda_pending){0};
  if (pending.checked)
    cuda_launched(
        ctx, "find_nonfinite",
        ie_cuda_check_finite(&device->queue, pending.checked, pending.checked_numbers, pending.check));
  if (pending.rope.n > 0) cuda_launched(ctx, "rope", ie_cuda_rope(&device->queue, &pending.rope));
}

void *cuda_scratch(ie_ctx *ctx, size_t bytes, bool *good) {
  void *memory;
  *good = ie_ctx_scratch(ctx, bytes + CUDA_ALIGN - IE_ARENA_ALIGN, &memory);
  uintptr_t at = (uintptr_t)memory;
  return memory ? (uint8_t *)memory + (CUDA_ALIGN - at % CUDA_ALIGN) % CUDA_ALIGN : NULL;
}

/* The device's copy of `host`. A plan's dry run knows no copies. */
static const void *copy_of(ie_ctx *ctx, const void *host, const char *what) {
  const void *copy = cuda_held_find(cuda_of_ctx(ctx), host);
  if (host && !copy && !ctx->dry)
    ie_ctx_fail(ctx, IE_INTERNAL, "%s: not on device %s", what ? what : "a parameter", ctx->device->name);
  return copy;
}

ie_cuda_weight cuda_weight(ie_ctx *ctx, const ie_weight *w) {
  ie_cuda_weight out = {.format = w->format,
                        .experts = w->experts,
                        .rows = w->rows,
                        .cols = w->cols,
                        .bias = copy_of(ctx, w->bias, w->name),
                        .bias_dtype = w->bias_dtype,
                        .bias_stride = w->bias_stride};
  for (int i = 0; i < 2; i++) {
    out.part[i] = copy_of(ctx, w->part[i], w->name);
    out.row_bytes[i] = w->row_bytes[i];
    out.expert_bytes[i] = w->expert_bytes[i];
  }
  return out;
}

ie_cuda_vector cuda_vector(ie_ctx *ctx, const ie_vector *v) {
  return (ie_cuda_vector){.data = copy_of(ctx, v->data, NULL), .dtype = v->dtype};
}

/* --- Rows --------------------------------------------------------------------------------------------------- */

static void cuda_embed(ie_ctx *ctx, ie_tensor *y, const ie_weight *w, const ie_batch *batch) {
  const ie_cuda_embed_args args = {
      .y = ie_tensor_f32(y), .w = cuda_weight(ctx, w), .ids = batch->ids, .tokens = batch->tokens};
  if (ctx->dry || ctx->status != IE_OK) return;
  cuda_flush(ctx);
  cuda_launched(ctx, "embed", ie_cuda_embed(&cuda_of_ctx(ctx)->queue, &args));
}

static void cuda_gather_rows(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const int32_t *index) {
  if (ctx->dry) return;
  cuda_flush(ctx);
  const ie_cuda_gather_args args = {.y = ie_tensor_f32(y),
                                    .x = ie_tensor_f32(x),
                                    .index = index,
                                    .rows = y->shape[0],
                                    .width = y->shape[1]};
  cuda_launched(ctx, "gather_rows", ie_cuda_gather_rows(&cuda_of_ctx(ctx)->queue, &args));
}

static ie_cuda_norm_args norm_args(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_vector *weight,
                                   const ie_vector *bias, float eps) {
  int64_t width = x->shape[x->rank - 1];
  ie_cuda_norm_args args = {.y = ie_tensor_f32(y),
                            .x = ie_tensor_f32(x),
                            .weight = cuda_vector(ctx, weight),
                            .rows = ie_tensor_count(x) / ie_max_i64(1, width),
                            .width = width,
                            .eps = eps};
  if (bias) args.bias = cuda_vector(ctx, bias);
  if (!ctx->dry) {
    args.check = pending_take(ctx, x);
    cuda_flush(ctx);
  }
  return args;
}

static void cuda_rms_norm(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_vector *weight, float eps) {
  const ie_cuda_norm_args args = norm_args(ctx, y, x, weight, /*bias=*/NULL, eps);
  if (ctx->dry || ctx->status != IE_OK) return;
  cuda_launched(ctx, "rms_norm", ie_cuda_rms_norm(&cuda_of_ctx(ctx)->queue, &args));
}

static void cuda_layer_norm(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_vector *weight,
                            const ie_vector *bias, float eps) {
  const ie_cuda_norm_args args = norm_args(ctx, y, x, weight, bias, eps);
  if (ctx->dry || ctx->status != IE_OK) return;
  cuda_launched(ctx, "layer_norm", ie_cuda_layer_norm(&cuda_of_ctx(ctx)->queue, &args));
}

/* --- Elements ----------------------------------------------------------------------------------------------- */

static void cuda_activate(ie_ctx *ctx, ie_tensor *x, ie_activation activation) {
  if (ctx->dry) return;
  cuda_flush(ctx);
  cuda_launched(ctx, "activate",
                ie_cuda_activate(&cuda_of_ctx(ctx)->queue, ie_tensor_f32(x), ie_tensor_count(x), activation));
}

static void cuda_soft_cap(ie_ctx *ctx, ie_tensor *x, float cap) {
  if (ctx->dry) return;
  cuda_flush(ctx);
  cuda_launched(ctx, "soft_cap",
                ie_cuda_soft_cap(&cuda_of_ctx(ctx)->queue, ie_tensor_f32(x), ie_tensor_count(x), cap));
}

static void cuda_scale(ie_ctx *ctx, real *x, int64_t n, float factor) {
  if (ctx->dry) return;
  cuda_flush(ctx);
  cuda_launched(ctx, "scale", ie_cuda_scale(&cuda_of_ctx(ctx)->queue, x, n, factor));
}

static void cuda_swiglu(ie_ctx *ctx, ie_tensor *y, const ie_tensor *gate, const ie_tensor *up) {
  if (ctx->dry) return;
  cuda_flush(ctx);
  cuda_launched(ctx, "swiglu",
                ie_cuda_swiglu(&cuda_of_ctx(ctx)->queue, ie_tensor_f32(y), ie_tensor_f32(gate),
                               ie_tensor_f32(up), ie_tensor_count(gate)));
}

static void cuda_split_heads(ie_ctx *ctx, ie_tensor *const *y, const ie_tensor *x) {
  if (ctx->dry) return;
  cuda_flush(ctx);
  const ie_cuda_split_args args = {.y = {ie_tensor_f32(y[0]), ie_tensor_f32(y[1]), ie_tensor_f32(y[2])},
                                   .x = ie_tensor_f32(x),
                                   .tokens = y[0]->shape[0],
                                   .heads = y[0]->shape[1],
                                   .dim = y[0]->shape[2]};
  cuda_launched(ctx, "split_heads", ie_cuda_split_heads(&cuda_of_ctx(ctx)->queue, &args));
}

/* --- Angles --------------------------------------------------------------------------------------------------- */

static void cuda_rope_table(ie_ctx *ctx, ie_tensor *cos_out, ie_tensor *sin_out, const ie_batch *batch,
                            const float *inv_freq, float scale, bool bf16) {
  const ie_cuda_rope_table_args args = {.cos = ie_tensor_f32(cos_out),
                                        .sin = ie_tensor_f32(sin_out),
                                        .position = batch->position,
                                        .inv_freq = copy_of(ctx, inv_freq, "frequencies"),
                                        .tokens = batch->tokens,
                                        .half = cos_out->shape[1],
                                        .scale = scale,
                                        .bf16 = bf16};
  if (ctx->dry || ctx->status != IE_OK) return;
  cuda_flush(ctx);
  cuda_launched(ctx, "rope_table", ie_cuda_rope_table(&cuda_of_ctx(ctx)->queue, &args));
}

/* Queries wait for the keys that are rotated next, by the same angles: one launch for both. */
static void cuda_rope(ie_ctx *ctx, ie_tensor *x, const ie_tensor *cos, const ie_tensor *sin) {
  if (ctx->dry) return;
  cuda_device *device = cuda_of_ctx(ctx);
  ie_cuda_rope_args args = device->pending.rope;
  bool together = args.n == 1 && args.cos == ie_tensor_f32(cos) && args.dim == x->shape[2] &&
                  args.tokens == x->shape[0] && args.half == cos->shape[1];
  if (together) {
    device->pending.rope.n = 0;
  } else {
    cuda_flush(ctx);
    args = (ie_cuda_rope_args){.cos = ie_tensor_f32(cos),
                               .sin = ie_tensor_f32(sin),
                               .tokens = x->shape[0],
                               .dim = x->shape[2],
                               .half = cos->shape[1]};
  }
  args.x[args.n] = ie_tensor_f32(x);
  args.heads[args.n++] = x->shape[1];
  if (together)
    cuda_launched(ctx, "rope", ie_cuda_rope(&device->queue, &args));
  else
    device->pending.rope = args;
}

/* --- Checks --------------------------------------------------------------------------------------------------- */

/* A norm or a router that reads x next checks it on the way. */
static int64_t cuda_find_nonfinite(ie_ctx *ctx, const ie_tensor *x, const char *what) {
  if (ctx->dry) return -1;
  cuda_device *device = cuda_of_ctx(ctx);
  cuda_flush(ctx);
  int64_t count = ie_tensor_count(x);
  ie_cuda_check check =
      cuda_check_new(ctx, CUDA_CHECK_FINITE, what, count / ie_max_i64(1, x->shape[0]), /*group=*/1);
  if (check.fault) {
    device->pending.checked = ie_tensor_f32(x);
    device->pending.checked_numbers = count;
    device->pending.check = check;
  }
  return -1;
}

static void cuda_route(ie_ctx *ctx, ie_tensor *expert, ie_tensor *weight, const ie_tensor *logits,
                       const ie_route_options *options) {
  if (ctx->dry) return;
  ie_cuda_check check = pending_take(ctx, logits);
  cuda_flush(ctx);
  const ie_cuda_route_args args = {.expert = ie_tensor_i32(expert),
                                   .weight = ie_tensor_f32(weight),
                                   .logits = ie_tensor_f32(logits),
                                   .tokens = logits->shape[0],
                                   .experts = logits->shape[1],
                                   .top_k = options->top_k,
                                   .check = check};
  cuda_launched(ctx, "route", ie_cuda_route(&cuda_of_ctx(ctx)->queue, &args));
}

void cuda_fill_elementwise(ie_device_ops *ops) {
  ops->embed = cuda_embed;
  for (int format = 0; format < IE_W_COUNT; format++) ops->embed_formats |= 1u << format;
  ops->gather_rows = cuda_gather_rows;
  ops->rms_norm = cuda_rms_norm;
  ops->layer_norm = cuda_layer_norm;
  ops->activate = cuda_activate;
  ops->soft_cap = cuda_soft_cap;
  ops->scale = cuda_scale;
  ops->swiglu = cuda_swiglu;
  ops->split_heads = cuda_split_heads;
  ops->rope_table = cuda_rope_table;
  ops->rope = cuda_rope;
  ops->find_nonfinite = cuda_find_nonfinite;
  ops->route = cuda_route;
}
