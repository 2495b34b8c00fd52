#include "tensor/tensor.h"

#include "base/float.h"

#include <stdlib.h>

real ie_vector_at(const ie_vector *v, int64_t i) {
  switch (v->dtype) {
  case IE_F16: return ie_f16_to_f32(((const uint16_t *)v->data)[i]);
  case IE_BF16: return ie_bf16_to_f32(((const uint16_t *)v->data)[i]);
  default: return ((const real *)v->data)[i];
  }
}

ie_tensor *ie_tensor_pool_at(ie_tensor_pool *pool, int i) {
  int chunk = i / IE_POOL_CHUNK;
  if (chunk >= IE_POOL_CHUNKS) return NULL;
  if (!pool->chunk[chunk]) pool->chunk[chunk] = calloc(IE_POOL_CHUNK, sizeof(ie_tensor));
  return pool->chunk[chunk] ? &pool->chunk[chunk][i % IE_POOL_CHUNK] : NULL;
}

void ie_tensor_pool_free(ie_tensor_pool *pool) {
  for (int i = 0; i < IE_POOL_CHUNKS; i++) free(pool->chunk[i]);
}

ie_wview ie_weight_view(const ie_weight *w, int64_t expert) {
  ie_wview view = {.format = w->format, .rows = w->rows, .cols = w->cols};
  for (int i = 0; i < 2; i++) {
    view.row_bytes[i] = w->row_bytes[i];
    view.part[i] = w->part[i] ? w->part[i] + (size_t)expert * w->expert_bytes[i] : NULL;
  }
  return view;
}

const void *ie_weight_bias(const ie_weight *w, int64_t expert) {
  if (!w->bias) return NULL;
  return (const uint8_t *)w->bias + (size_t)(expert * w->bias_stride) * ie_number_bytes(w->bias_dtype);
}

size_t ie_weight_bytes(const ie_weight *w) {
  size_t bytes = w->bias ? (size_t)w->rows * ie_dtype_bytes(w->bias_dtype) : 0;
  for (int i = 0; i < 2; i++) bytes += (size_t)w->rows * ie_wformat_row_bytes(w->format, i, w->cols);
  return bytes;
}

void ie_weight_choose(ie_weight *w, const ie_kernels *kernels, ie_class cls) {
  w->few = &kernels->few[cls][w->format];
  w->many = kernels->many[cls][w->format].run ? &kernels->many[cls][w->format] : NULL;
  w->many_min_tok = kernels->many_min_tok[cls][w->format];
}

const ie_product *ie_weight_product(const ie_weight *w, int64_t T) {
  return w->many && T >= w->many_min_tok ? w->many : w->few;
}
