#include "tensor/device.h"

#include "base/size.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void *ie_ctx_fail(ie_ctx *ctx, ie_status status, const char *format, ...) {
  if (ctx->status != IE_OK) return NULL;
  char text[IE_ERROR_BYTES];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (ctx->layer >= 0)
    ctx->status = ie_error_set(&ctx->error, status, "layer %d: %s", ctx->layer, text);
  else
    ctx->status = ie_error_set(&ctx->error, status, "%s", text);
  return NULL;
}

void *ie_ctx_nonfinite(ie_ctx *ctx, const char *what, double value, int64_t at, int64_t width) {
  return ie_ctx_fail(ctx, IE_NUMERIC, "%s: %s at token %lld of this forward, column %lld", what,
                     isnan(value) ? "NaN" : "infinity", (long long)(at / width), (long long)(at % width));
}

ie_ctx_mark ie_ctx_save(const ie_ctx *ctx) {
  return (ie_ctx_mark){.arena = ie_arena_save(&ctx->arena), .node_count = ctx->node_count};
}

void ie_ctx_reset(ie_ctx *ctx, ie_ctx_mark mark) {
  ie_arena_reset(&ctx->arena, mark.arena);
  ctx->node_count = mark.node_count;
}

bool ie_ctx_scratch(ie_ctx *ctx, size_t bytes, void **out) {
  *out = NULL;
  if (ctx->status != IE_OK) return false;
  if (ie_arena_take(&ctx->arena, bytes, out)) return true;
  ie_ctx_fail(ctx, IE_INTERNAL, "the arena holds %zu bytes, %zu are taken, %zu more were asked for",
              ctx->arena.capacity, ctx->arena.used, bytes);
  return false;
}

ie_tensor *ie_ctx_tensor(ie_ctx *ctx, ie_dtype dtype, int rank, const int64_t *shape) {
  if (ctx->status != IE_OK) return NULL;
  if (!ctx->pool && ctx->node_count == IE_CTX_NODES)
    return ie_ctx_fail(ctx, IE_INTERNAL, "more than %d tensors", IE_CTX_NODES);
  ie_tensor t = {.dtype = dtype, .rank = rank, .shape = {1, 1, 1, 1}};
  size_t bytes = ie_number_bytes(dtype);
  for (int i = 0; i < rank; i++) {
    t.shape[i] = shape[i];
    if (shape[i] < 0 || !ie_size_mul(bytes, (size_t)shape[i], &bytes))
      return ie_ctx_fail(ctx, IE_INTERNAL, "a tensor of %lld entries in dimension %d", (long long)shape[i],
                         i);
  }
  if (!ie_ctx_scratch(ctx, bytes, &t.data)) return NULL;
  ie_tensor *node = ctx->pool ? ie_tensor_pool_at(ctx->pool, ctx->node_count) : &ctx->nodes[ctx->node_count];
  if (!node) return ie_ctx_fail(ctx, IE_OUT_OF_MEMORY, "out of memory for %d tensors", ctx->node_count);
  ctx->node_count++;
  *node = t;
  return node;
}
