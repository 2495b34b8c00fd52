/* Launchers of the KV cache and of attention. */
#include "cuda/cuda.h"

#include "base/size.h"
#include "blocks/kv_int8.h"

/* `recent` is where the copy of an int8 layer's ring goes. */
static ie_cuda_kv kv_of(const ie_kv_layer *kv, ie_cuda_kv *recent) {
  ie_cuda_kv out = {.k = kv->k,
                    .v = kv->v,
                    .dtype = kv->dtype,
                    .sequences = kv->sequences,
                    .heads = kv->heads,
                    .cap = kv->cap,
                    .dim = kv->dim,
                    .k_scale = kv->k_scale,
                    .v_scale = kv->v_scale};
  if (kv->recent) {
    *recent = kv_of(kv->recent, NULL);
    out.recent = recent;
  }
  return out;
}

static void cuda_kv_append(ie_ctx *ctx, ie_kv_layer *kv, const ie_tensor *k, const ie_tensor *v,
                           const ie_batch *batch) {
  if (ctx->dry) return;
  cuda_flush(ctx);
  ie_cuda_kv recent;
  ie_dtype stored = kv->recent ? kv->recent->dtype : kv->dtype;
  ie_cuda_kv_append_args args = {.kv = kv_of(kv, &recent),
                                 .k = ie_tensor_f32(k),
                                 .v = ie_tensor_f32(v),
                                 .position = batch->position,
                                 .sequence = batch->sequence,
                                 .tokens = batch->tokens};
  if (stored == IE_F16)
    args.check = cuda_check_new(ctx, CUDA_CHECK_F16, "keys and values", kv->heads * kv->dim, /*group=*/1);
  if (ctx->status == IE_OK)
    cuda_launched(ctx, "kv_append", ie_cuda_kv_append(&cuda_of_ctx(ctx)->queue, &args));
}

static int64_t bound_of(int64_t reach, int64_t window) {
  return window > 0 ? ie_min_i64(reach, window) : reach;
}

/* The most that any forward of these tokens takes: near or deep, of many sequences or of one. */
static size_t scratch_most(ie_cuda_attention_args args, const ie_batch *batch, int64_t window) {
  size_t most = 0;
  const int64_t runs[2] = {batch->longest_run, batch->tokens};
  for (int64_t reach = cuda_reach_bucket(1);; reach *= 2) {
    args.key_bound = bound_of(reach, window);
    for (int i = 0; i < 2; i++) {
      args.longest_run = runs[i];
      size_t bytes = ie_cuda_attention_scratch(&args);
      if (bytes > most) most = bytes;
    }
    if (reach >= batch->reach) return most;
  }
}

static size_t position_bytes(const ie_kv_layer *kv) {
  size_t numbers = 2 * (size_t)(kv->heads * kv->dim);
  if (kv->dtype != IE_I8) return numbers * ie_dtype_bytes(kv->dtype);
  return numbers + (size_t)kv->heads * (1 + (size_t)kv->dim / IE_KV_GROUP) * sizeof(uint16_t);
}

static void cuda_attention(ie_ctx *ctx, ie_tensor *y, const ie_tensor *q, const ie_kv_layer *kv,
                           const ie_batch *batch, const ie_attention_options *options) {
  ie_cuda_kv recent;
  ie_cuda_attention_args args = {.y = ie_tensor_f32(y),
                                 .q = ie_tensor_f32(q),
                                 .kv = kv_of(kv, &recent),
                                 .position = batch->position,
                                 .sequence = batch->sequence,
                                 .tokens = batch->tokens,
                                 .heads = q->shape[1],
                                 .scale = options->scale,
                                 .window = options->window,
                                 .sinks = cuda_vector(ctx, &options->sinks),
                                 .cls = ctx->cls,
                                 .longest_run = batch->longest_run,
                                 .key_bound = bound_of(batch->reach, options->window)};
  bool good;
  ie_ctx_mark mark = ie_ctx_save(ctx);
  size_t bytes = ctx->dry ? scratch_most(args, batch, options->window) : ie_cuda_attention_scratch(&args);
  if (!ctx->dry) cuda_flush(ctx);
  args.scratch = cuda_scratch(ctx, bytes, &good);
  cuda_trace *trace = cuda_of_ctx(ctx)->trace;
  if (good && !ctx->dry && ctx->status == IE_OK) {
    cuda_launched(ctx, "attention", ie_cuda_attention(&cuda_of_ctx(ctx)->queue, &args));
    if (trace && trace->attentions < CUDA_CHECKS_MAX)
      trace->attended[trace->attentions++] = (cuda_attended){.window = options->window,
                                                             .q_numbers = q->shape[1] * q->shape[2],
                                                             .position_bytes = position_bytes(kv)};
  }
  ie_ctx_reset(ctx, mark);
}

void cuda_fill_attention(ie_device_ops *ops) {
  ops->kv_append = cuda_kv_append;
  ops->attention = cuda_attention;
}
