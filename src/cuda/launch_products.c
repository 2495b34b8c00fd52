/* Launchers of products: linear and the mixture of experts. */
#include "cuda/cuda.h"

#include "base/size.h"

static ie_class class_of(const ie_ctx *ctx, const ie_weight *w) {
  return w->exact ? IE_CLASS_F32 : ctx->cls;
}

static void work_of(ie_ctx *ctx, uint64_t bytes, uint64_t flop) {
  cuda_trace *trace = cuda_of_ctx(ctx)->trace;
  if (!trace) return;
  trace->work.weight_bytes += bytes;
  trace->work.flop += flop;
}

/* Weights of one arithmetic class. */
static void linear_launch(ie_ctx *ctx, ie_tensor *const *y, const ie_tensor *x, const ie_weight *const *w,
                          int n, bool add) {
  ie_cuda_linear_args args = {
      .n = n, .x = ie_tensor_f32(x), .tokens = x->shape[0], .cls = class_of(ctx, w[0]), .add = add};
  for (int i = 0; i < n; i++) {
    args.y[i] = ie_tensor_f32(y[i]);
    args.w[i] = cuda_weight(ctx, w[i]);
  }
  bool good;
  ie_ctx_mark mark = ie_ctx_save(ctx);
  args.scratch = cuda_scratch(ctx, ie_cuda_linear_scratch(&args), &good);
  if (good && !ctx->dry && ctx->status == IE_OK) {
    cuda_launched(ctx, "linear", ie_cuda_linear(&cuda_of_ctx(ctx)->queue, &args));
    for (int i = 0; i < n; i++)
      work_of(ctx, ie_weight_bytes(w[i]), 2u * (uint64_t)(x->shape[0] * w[i]->rows * w[i]->cols));
  }
  ie_ctx_reset(ctx, mark);
}

static void cuda_linear(ie_ctx *ctx, ie_tensor *const *y, const ie_tensor *x, const ie_weight *const *w,
                        int n, bool add) {
  if (!ctx->dry) cuda_flush(ctx);
  for (int first = 0, count; first < n; first += count) {
    for (count = 1; first + count < n && count < IE_CUDA_LINEAR_MAX; count++)
      if (class_of(ctx, w[first + count]) != class_of(ctx, w[first])) break;
    linear_launch(ctx, y + first, x, w + first, count, add);
  }
}

static void cuda_moe(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_tensor *expert,
                     const ie_tensor *weight, const ie_moe_options *options) {
  const ie_weight *up = options->gate_up, *down = options->down;
  ie_cuda_moe_args args = {.y = ie_tensor_f32(y),
                           .x = ie_tensor_f32(x),
                           .expert = ie_tensor_i32(expert),
                           .weight = ie_tensor_f32(weight),
                           .tokens = x->shape[0],
                           .top_k = expert->shape[1],
                           .gate_up = cuda_weight(ctx, up),
                           .down = cuda_weight(ctx, down),
                           .alpha = options->alpha,
                           .limit = options->limit,
                           .cls = class_of(ctx, up)};
  if (!ctx->dry) {
    cuda_flush(ctx);
    args.check = cuda_check_new(ctx, CUDA_CHECK_GATE_UP, "gate and up of the experts", up->rows, args.top_k);
  }
  bool good;
  ie_ctx_mark mark = ie_ctx_save(ctx);
  args.scratch = cuda_scratch(ctx, ie_cuda_moe_scratch(&args), &good);
  if (good && !ctx->dry && ctx->status == IE_OK) {
    cuda_launched(ctx, "moe", ie_cuda_moe(&cuda_of_ctx(ctx)->queue, &args));
    /* The router's choice is not known here: no expert is read twice, and there are no more than there are pairs. */
    int64_t pairs = args.tokens * args.top_k, most = ie_min_i64(pairs, up->experts);
    work_of(ctx, (uint64_t)most * (ie_weight_bytes(up) + ie_weight_bytes(down)),
            2u * (uint64_t)pairs * (uint64_t)(up->rows * up->cols + down->rows * down->cols));
  }
  ie_ctx_reset(ctx, mark);
}

void cuda_fill_products(ie_device_ops *ops) {
  ops->linear = cuda_linear;
  ops->moe = cuda_moe;
}
