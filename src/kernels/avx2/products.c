#include "kernels/avx2/products.h"

size_t ie_few_token_bytes__avx2(int64_t K) {
  return ie_size_align((size_t)K, 32) * sizeof(float);
}
size_t ie_few_token_bytes_nibbles__avx2(int64_t K) {
  return ie_size_align((size_t)K, MX_CHUNK_COLS) * sizeof(float);
}
size_t ie_few_token_bytes_int8__avx2(int64_t K) {
  return (size_t)ie_div_up(K, MX_CHUNK_COLS) * sizeof(int8_chunk);
}

size_t ie_few_token_bytes_int8_int8__avx2(int64_t K) {
  size_t padded = (size_t)int8_padded_cols(K);
  return padded + padded / IE_BLOCK_COLS * sizeof(float);
}

static size_t pack_bytes(int64_t T, int64_t K) {
  return (size_t)T * ie_few_token_bytes__avx2(K);
}
static size_t pack_bytes_nibbles(int64_t T, int64_t K) {
  return (size_t)T * ie_few_token_bytes_nibbles__avx2(K);
}
static size_t pack_bytes_int8(int64_t T, int64_t K) {
  return (size_t)T * ie_few_token_bytes_int8__avx2(K);
}
static size_t pack_bytes_int8_int8(int64_t T, int64_t K) {
  return ie_size_align((size_t)T * ie_few_token_bytes_int8_int8__avx2(K), 64);
}

ALWAYS_INLINE void pack_row(float *out, const float *x, int64_t K, ie_class class, order ordering) {
  int64_t padded = (int64_t)ie_size_align((size_t)K, ordering == ORDER_NIBBLES ? MX_CHUNK_COLS : 32);
  for (int64_t k0 = 0; k0 < padded; k0 += IE_BLOCK_COLS) {
    float v[IE_BLOCK_COLS];
    load_rounded(v, x, k0, K, class);
    for (int64_t i = 0; i < IE_BLOCK_COLS; i++) out[packed_col(k0 + i, ordering)] = v[i];
  }
}

#define DEFINE_PACK(name, class, order, token_bytes)                                                         \
  static void name(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T,         \
                   int64_t t0, int64_t t1, int64_t K) {                                                      \
    (void)T;                                                                                                 \
    for (int64_t t = t0; t < t1; t++) {                                                                      \
      float *out = (float *)(void *)((char *)packed + (size_t)t * token_bytes(K));                           \
      pack_row(out, ie_pack_source(x, x_stride, x_rows, t), K, class, order);                                \
    }                                                                                                        \
  }
#define DEFINE_PACKS(suffix, order, token_bytes)                                                             \
  DEFINE_PACK(pack_f32_##suffix, IE_CLASS_F32, order, token_bytes)                                           \
  DEFINE_PACK(pack_bf16_##suffix, IE_CLASS_BF16, order, token_bytes)                                         \
  DEFINE_PACK(pack_f16_##suffix, IE_CLASS_F16, order, token_bytes)                                           \
  DEFINE_PACK(pack_int8_##suffix, IE_CLASS_INT8, order, token_bytes)
DEFINE_PACKS(natural, ORDER_NATURAL, ie_few_token_bytes__avx2)
DEFINE_PACKS(pairs, ORDER_PAIRS, ie_few_token_bytes__avx2)
DEFINE_PACKS(nibbles, ORDER_NIBBLES, ie_few_token_bytes_nibbles__avx2)

/* Columns k .. k + 31, the b-th block (0 or 1) of its chunk. */
ALWAYS_INLINE void pack_int8_block(int8_chunk *out, int b, const float *x, int64_t k, int64_t K,
                                   code_rule codes) {
  int32_t q[IE_BLOCK_COLS];
  float s = quantise_cols(q, x, k, K);
  for (int i = 0; i < 16; i++) {
    out->even[16 * b + i] = (int8_t)q[2 * i];
    out->odd[16 * b + i] = (int8_t)q[2 * i + 1];
  }
  for (int l = 0; l < 4; l++) {
    int sum = 0;
    for (int i = 0; i < 8; i++) sum += q[8 * l + i];
    out->start[4 * b + l] = -codes.offset * sum;
    out->scale[4 * b + l] = s / codes.factor;
  }
}

#define DEFINE_PACK_INT8(name, codes)                                                                        \
  static void name(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T,         \
                   int64_t t0, int64_t t1, int64_t K) {                                                      \
    (void)T;                                                                                                 \
    for (int64_t t = t0; t < t1; t++) {                                                                      \
      int8_chunk *out =                                                                                      \
          (int8_chunk *)(void *)((char *)packed + (size_t)t * ie_few_token_bytes_int8__avx2(K));             \
      const float *row = ie_pack_source(x, x_stride, x_rows, t);                                             \
      for (int64_t b = 0; b < 2 * ie_div_up(K, MX_CHUNK_COLS); b++)                                          \
        pack_int8_block(&out[b / 2], (int)(b % 2), row, b *IE_BLOCK_COLS, K, codes);                         \
    }                                                                                                        \
  }
DEFINE_PACK_INT8(pack_int8_mxfp4, codes_mxfp4)
DEFINE_PACK_INT8(pack_int8_int4, codes_int4)

static void pack_int8_int8(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T,
                           int64_t t0, int64_t t1, int64_t K) {
  (void)T;
  int64_t padded = int8_padded_cols(K);
  for (int64_t t = t0; t < t1; t++) {
    int8_t *out = (int8_t *)packed + (size_t)t * ie_few_token_bytes_int8_int8__avx2(K);
    float *scales = (float *)(void *)(out + padded);
    const float *row = ie_pack_source(x, x_stride, x_rows, t);
    for (int64_t k = 0; k < padded; k += IE_BLOCK_COLS) {
      int32_t q[IE_BLOCK_COLS];
      scales[k / IE_BLOCK_COLS] = quantise_cols(q, row, k, K);
      for (int64_t i = 0; i < IE_BLOCK_COLS; i++) out[k + i] = (int8_t)q[i];
    }
  }
}

#define DEFINE_RUN(name)                                                                                     \
  static void run_##name(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch) {               \
    (void)scratch;                                                                                           \
    ie_few_run(&ie_few_##name##__avx2, args, r0, r1);                                                        \
  }
DEFINE_RUN(f32)
DEFINE_RUN(f16)
DEFINE_RUN(bf16)
DEFINE_RUN(mxfp4)
DEFINE_RUN(int8)
DEFINE_RUN(int4)
DEFINE_RUN(int8_mxfp4)
DEFINE_RUN(int8_int8)
DEFINE_RUN(int8_int4)

#define FEW_OF(class)                                                                                        \
  {                                                                                                          \
    [IE_W_F32] = {pack_bytes, pack_##class##_natural, NULL, run_f32, 1, 1},                                  \
    [IE_W_F16] = {pack_bytes, pack_##class##_natural, NULL, run_f16, 1, 1},                                  \
    [IE_W_BF16] = {pack_bytes, pack_##class##_pairs, NULL, run_bf16, 1, 1},                                  \
    [IE_W_MXFP4] = {pack_bytes_nibbles, pack_##class##_nibbles, NULL, run_mxfp4, 1, 1},                      \
    [IE_W_INT8] = {pack_bytes, pack_##class##_natural, NULL, run_int8, 1, 1},                                \
    [IE_W_INT4] = {pack_bytes_nibbles, pack_##class##_nibbles, NULL, run_int4, 1, 1},                        \
  }

static const ie_product few_products[IE_CLASS_COUNT][IE_W_COUNT] = {
    [IE_CLASS_F32] = FEW_OF(f32),
    [IE_CLASS_BF16] = FEW_OF(bf16),
    [IE_CLASS_F16] = FEW_OF(f16),
    [IE_CLASS_INT8] = FEW_OF(int8),
};

void ie_kernels_fill_products__avx2(ie_kernels *out) {
  for (int class = 0; class < IE_CLASS_COUNT; class ++)
    for (int format = 0; format < IE_W_COUNT; format++) {
      out->few[class][format] = few_products[class][format];
      out->many[class][format] = ie_many_products__avx2[class][format];
      out->many_min_tok[class][format] = format == IE_W_F32 ? 9 : 16; /* where the two meet, docs/SPEED.md */
    }
  out->few[IE_CLASS_INT8][IE_W_MXFP4] =
      (ie_product){pack_bytes_int8, pack_int8_mxfp4, NULL, run_int8_mxfp4, 1, 1};
  out->few[IE_CLASS_INT8][IE_W_INT4] =
      (ie_product){pack_bytes_int8, pack_int8_int4, NULL, run_int8_int4, 1, 1};
  out->few[IE_CLASS_INT8][IE_W_INT8] =
      (ie_product){pack_bytes_int8_int8, pack_int8_int8, NULL, run_int8_int8, 1, 1};
  out->many[IE_CLASS_INT8][IE_W_MXFP4] = ie_many_int8_mxfp4__avx2;
  out->many[IE_CLASS_INT8][IE_W_INT4] = ie_many_int8_int4__avx2;
  /* integer sums: the few-token kernel serves all T */
  out->many[IE_CLASS_INT8][IE_W_INT8] = (ie_product){0};
  out->many_min_tok[IE_CLASS_INT8][IE_W_INT8] = INT64_MAX;
}
