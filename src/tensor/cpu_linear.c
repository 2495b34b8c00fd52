/* CPU launcher of linear: x is packed once for all weights that share it, and their rows form one dispatch. */
#include "tensor/cpu_product.h"

#include "base/size.h"

enum { LINEAR_MAX = 4 }; /* weights that share one x: q, k, v and one spare */

/* Packed tokens of each distinct product; returns the number of products, or -1 after a failure. */
typedef struct packed_inputs {
  const ie_product *product[LINEAR_MAX];
  void *data[LINEAR_MAX];
  int n;
} packed_inputs;

static void *packed_find(ie_ctx *ctx, packed_inputs *inputs, const ie_product *product, const ie_tensor *x) {
  int64_t T = x->shape[0], K = x->shape[1];
  for (int i = 0; i < inputs->n; i++)
    if (inputs->product[i] == product) return inputs->data[i];
  void *data;
  if (!ie_ctx_scratch(ctx, product->pack_bytes(T, K), &data)) return NULL;
  inputs->product[inputs->n] = product;
  inputs->data[inputs->n++] = data;
  if (!ctx->dry) cpu_pack(ctx->device->team, product, data, ie_tensor_f32(x), K, T, K);
  return data;
}

static void cpu_linear(ie_ctx *ctx, ie_tensor *const *y, const ie_tensor *x, const ie_weight *const *w, int n,
                       bool add) {
  cpu_segment segments[LINEAR_MAX];
  packed_inputs inputs = {.n = 0};
  int64_t T = x->shape[0], K = x->shape[1];
  void *scratch = NULL;
  size_t per_thread = 0;
  ie_ctx_mark mark = ie_ctx_save(ctx);
  for (int i = 0; i < n; i++) {
    const ie_product *product = ie_weight_product(w[i], T);
    segments[i] = cpu_segment_make(w[i], /*expert=*/0, product, T);
    segments[i].args.packed = packed_find(ctx, &inputs, product, x);
    segments[i].args.y = ie_tensor_f32(y[i]);
    segments[i].args.y_stride = y[i]->shape[1];
    segments[i].args.add = add;
    size_t bytes = cpu_run_bytes(product, T, K);
    if (bytes > per_thread) per_thread = bytes;
  }
  (void)cpu_run_scratch(ctx, per_thread, &scratch);
  if (!ctx->dry && ctx->status == IE_OK) cpu_segments_run(ctx, segments, n, scratch, per_thread);
  ie_ctx_reset(ctx, mark);
}

void ie_cpu_fill_linear(ie_device_ops *ops) {
  ops->linear = cpu_linear;
}
