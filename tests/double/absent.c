/* What the double build leaves out. The launchers of inference are there by name, so that operations find them, and
 * refuse to compute. */
#include "tensor/device.h"
#include "tensor/quantise.h"
#include "text/tokenizer.h"

static void refuse(ie_ctx *ctx) {
  ie_ctx_fail(ctx, IE_UNSUPPORTED, "the double build has no inference");
}

static void no_linear(ie_ctx *ctx, ie_tensor *const *y, const ie_tensor *x, const ie_weight *const *w, int n,
                      bool add) {
  (void)y, (void)x, (void)w, (void)n, (void)add;
  refuse(ctx);
}
void ie_cpu_fill_linear(ie_device_ops *ops) {
  ops->linear = no_linear;
}

static void no_kv_append(ie_ctx *ctx, ie_kv_layer *kv, const ie_tensor *k, const ie_tensor *v,
                         const ie_batch *batch) {
  (void)kv, (void)k, (void)v, (void)batch;
  refuse(ctx);
}
static void no_attention(ie_ctx *ctx, ie_tensor *y, const ie_tensor *q, const ie_kv_layer *kv,
                         const ie_batch *batch, const ie_attention_options *options) {
  (void)y, (void)q, (void)kv, (void)batch, (void)options;
  refuse(ctx);
}
void ie_cpu_fill_attention(ie_device_ops *ops) {
  ops->kv_append = no_kv_append;
  ops->attention = no_attention;
}

static void no_moe(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_tensor *expert,
                   const ie_tensor *weight, const ie_moe_options *options) {
  (void)y, (void)x, (void)expert, (void)weight, (void)options;
  refuse(ctx);
}
void ie_cpu_fill_moe(ie_device_ops *ops) {
  ops->moe = no_moe;
}

size_t ie_quantised_bytes(ie_wformat format, int64_t rows, int64_t cols) {
  (void)format, (void)rows, (void)cols;
  return 0;
}
ie_status ie_weight_quantise(ie_team *team, const ie_kernels *kernels, ie_weight *w, ie_wformat format,
                             void *memory, ie_rows_done_fn *done, ie_error *error) {
  (void)team, (void)kernels, (void)w, (void)format, (void)memory, (void)done;
  return ie_error_set(error, IE_UNSUPPORTED, "the double build quantises nothing");
}

/* Text is not built twice: no directory has a tokenizer here. */
ie_status ie_tokenizer_find(const char *dir, char **path, bool *needs_encoding, ie_error *error) {
  (void)dir, (void)error;
  *path = NULL;
  *needs_encoding = false;
  return IE_OK;
}
