#include "kernels/avx512/products.h"

size_t ie_few_token_bytes__avx512(int64_t K) {
  return ie_size_align((size_t)K, 32) * sizeof(float);
}
size_t ie_few_token_bytes_mxfp4__avx512(int64_t K) {
  return ie_size_align((size_t)K, MX_CHUNK_COLS) * sizeof(float);
}

static size_t pack_bytes(int64_t T, int64_t K) {
  return (size_t)T * ie_few_token_bytes__avx512(K);
}
static size_t pack_bytes_mxfp4(int64_t T, int64_t K) {
  return (size_t)T * ie_few_token_bytes_mxfp4__avx512(K);
}

ALWAYS_INLINE void pack_row_nibbles(float *out, const float *x, int64_t K, ie_class class) {
  const __m512i every_8th =
      _mm512_slli_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), 3);
  for (int64_t k0 = 0; k0 < K; k0 += MX_CHUNK_COLS) {
    _Alignas(64) float chunk[MX_CHUNK_COLS];
    for (int64_t k = 0; k < MX_CHUNK_COLS; k += 32) {
      __m512 v[2];
      load_rounded(v, x, k0 + k, K, class);
      _mm512_store_ps(chunk + k, v[0]);
      _mm512_store_ps(chunk + k + 16, v[1]);
    }
    for (int64_t j = 0; j < 8; j++)
      _mm512_store_ps(out + k0 + 16 * j, _mm512_i32gather_ps(every_8th, chunk + j, sizeof(float)));
  }
}

ALWAYS_INLINE void pack_row(float *out, const float *x, int64_t K, ie_class class, order ordering) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  if (ordering == ORDER_NIBBLES) {
    pack_row_nibbles(out, x, K, class);
    return;
  }
  for (int64_t k = 0; k < K; k += 32) {
    __m512 v[2];
    load_rounded(v, x, k, K, class);
    bool pairs = ordering == ORDER_PAIRS;
    _mm512_store_ps(out + k, pairs ? _mm512_permutex2var_ps(v[0], even, v[1]) : v[0]);
    _mm512_store_ps(out + k + 16, pairs ? _mm512_permutex2var_ps(v[0], odd, v[1]) : v[1]);
  }
}

#define DEFINE_PACK(name, class, order, token_bytes)                                                         \
  static void name(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T,         \
                   int64_t t0, int64_t t1, int64_t K) {                                                      \
    (void)T;                                                                                                 \
    for (int64_t t = t0; t < t1; t++) {                                                                      \
      float *out = (float *)((char *)packed + (size_t)t * token_bytes(K));                                   \
      pack_row(out, ie_pack_source(x, x_stride, x_rows, t), K, class, order);                                \
    }                                                                                                        \
  }
#define DEFINE_PACKS(suffix, order, token_bytes)                                                             \
  DEFINE_PACK(pack_f32_##suffix, IE_CLASS_F32, order, token_bytes)                                           \
  DEFINE_PACK(pack_bf16_##suffix, IE_CLASS_BF16, order, token_bytes)                                         \
  DEFINE_PACK(pack_f16_##suffix, IE_CLASS_F16, order, token_bytes)                                           \
  DEFINE_PACK(pack_int8_##suffix, IE_CLASS_INT8, order, token_bytes)
DEFINE_PACKS(natural, ORDER_NATURAL, ie_few_token_bytes__avx512)
DEFINE_PACKS(pairs, ORDER_PAIRS, ie_few_token_bytes__avx512)
DEFINE_PACKS(nibbles, ORDER_NIBBLES, ie_few_token_bytes_mxfp4__avx512)

#define PACKS(suffix, bytes)                                                                                 \
  { {pack_f32_##suffix, pack_bf16_##suffix, pack_f16_##suffix, pack_int8_##suffix}, bytes }

const float_packs ie_few_packs__avx512[IE_W_COUNT] = {
    [IE_W_F32] = PACKS(natural, pack_bytes),
    [IE_W_F16] = PACKS(natural, pack_bytes),
    [IE_W_BF16] = PACKS(pairs, pack_bytes),
    [IE_W_MXFP4] = PACKS(nibbles, pack_bytes_mxfp4),
};

size_t ie_few_token_bytes_int8__avx512(int64_t K) {
  return (size_t)ie_div_up(K, MX_CHUNK_COLS) * sizeof(int8_chunk);
}
size_t ie_few_int8_pack_bytes__avx512(int64_t T, int64_t K) {
  return (size_t)T * ie_few_token_bytes_int8__avx512(K);
}

/* One block of 32 columns, the b-th of its chunk; x == NULL: beyond the row. */
static void pack_int8_block(int8_chunk *out, int b, const float *x) {
  _Alignas(64) int8_t q[IE_BLOCK_COLS] = {0};
  float s = 0;
  if (x != NULL) {
    __m512i v[2];
    s = quantise_block(v, _mm512_loadu_ps(x), _mm512_loadu_ps(x + 16));
    _mm_store_si128((__m128i *)q, _mm512_cvtepi32_epi8(v[0]));
    _mm_store_si128((__m128i *)(q + 16), _mm512_cvtepi32_epi8(v[1]));
  }
  for (int i = 0; i < 16; i++) {
    out->even[16 * b + i] = q[2 * i];
    out->odd[16 * b + i] = q[2 * i + 1];
  }
  for (int l = 0; l < 4; l++) {
    int sum = 0;
    for (int i = 0; i < 8; i++) sum += q[8 * l + i];
    out->start[4 * b + l] = -12 * sum;
    out->half_scale[4 * b + l] = 0.5f * s;
  }
}

void ie_pack_few_int8__avx512(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows,
                              int64_t T, int64_t t0, int64_t t1, int64_t K) {
  (void)T;
  for (int64_t t = t0; t < t1; t++) {
    int8_chunk *out = (int8_chunk *)((char *)packed + (size_t)t * ie_few_token_bytes_int8__avx512(K));
    const float *row = ie_pack_source(x, x_stride, x_rows, t);
    for (int64_t k = 0; k < (int64_t)ie_size_align((size_t)K, MX_CHUNK_COLS); k += IE_BLOCK_COLS)
      pack_int8_block(&out[k / MX_CHUNK_COLS], (int)(k % MX_CHUNK_COLS / IE_BLOCK_COLS),
                      k < K ? row + k : NULL);
  }
}
