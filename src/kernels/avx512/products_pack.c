#include "kernels/avx512/products.h"

size_t ie_few_token_bytes__avx512(int64_t K) {
  return ie_size_align((size_t)K, 32) * sizeof(float);
}
size_t ie_few_token_bytes_nibbles__avx512(int64_t K) {
  return ie_size_align((size_t)K, MX_CHUNK_COLS) * sizeof(float);
}
size_t ie_few_token_bytes_int8w__avx512(int64_t K) {
  return ie_size_align((size_t)K, INT8_CHUNK_COLS) * sizeof(float);
}

static size_t pack_bytes(int64_t T, int64_t K) {
  return (size_t)T * ie_few_token_bytes__avx512(K);
}
static size_t pack_bytes_nibbles(int64_t T, int64_t K) {
  return (size_t)T * ie_few_token_bytes_nibbles__avx512(K);
}
static size_t pack_bytes_int8w(int64_t T, int64_t K) {
  return (size_t)T * ie_few_token_bytes_int8w__avx512(K);
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

ALWAYS_INLINE void pack_row(float *out, const float *x, int64_t K, ie_class class, order ordering,
                            int64_t pad_cols) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  if (ordering == ORDER_NIBBLES) {
    pack_row_nibbles(out, x, K, class);
    return;
  }
  for (int64_t k = 0; k < (int64_t)ie_size_align((size_t)K, (size_t)pad_cols); k += 32) {
    __m512 v[2];
    load_rounded(v, x, k, K, class);
    bool pairs = ordering == ORDER_PAIRS;
    _mm512_store_ps(out + k, pairs ? _mm512_permutex2var_ps(v[0], even, v[1]) : v[0]);
    _mm512_store_ps(out + k + 16, pairs ? _mm512_permutex2var_ps(v[0], odd, v[1]) : v[1]);
  }
}

#define DEFINE_PACK(name, class, order, pad, token_bytes)                                                    \
  static void name(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T,         \
                   int64_t t0, int64_t t1, int64_t K) {                                                      \
    (void)T;                                                                                                 \
    for (int64_t t = t0; t < t1; t++) {                                                                      \
      float *out = (float *)((char *)packed + (size_t)t * token_bytes(K));                                   \
      pack_row(out, ie_pack_source(x, x_stride, x_rows, t), K, class, order, pad);                           \
    }                                                                                                        \
  }
#define DEFINE_PACKS(suffix, order, pad, token_bytes)                                                        \
  DEFINE_PACK(pack_f32_##suffix, IE_CLASS_F32, order, pad, token_bytes)                                      \
  DEFINE_PACK(pack_bf16_##suffix, IE_CLASS_BF16, order, pad, token_bytes)                                    \
  DEFINE_PACK(pack_f16_##suffix, IE_CLASS_F16, order, pad, token_bytes)                                      \
  DEFINE_PACK(pack_int8_##suffix, IE_CLASS_INT8, order, pad, token_bytes)
DEFINE_PACKS(natural, ORDER_NATURAL, 32, ie_few_token_bytes__avx512)
DEFINE_PACKS(pairs, ORDER_PAIRS, 32, ie_few_token_bytes__avx512)
DEFINE_PACKS(nibbles, ORDER_NIBBLES, MX_CHUNK_COLS, ie_few_token_bytes_nibbles__avx512)
DEFINE_PACKS(int8w, ORDER_NATURAL, INT8_CHUNK_COLS, ie_few_token_bytes_int8w__avx512)

#define PACKS(suffix, bytes)                                                                                 \
  { {pack_f32_##suffix, pack_bf16_##suffix, pack_f16_##suffix, pack_int8_##suffix}, bytes }

const float_packs ie_few_packs__avx512[IE_W_COUNT] = {
    [IE_W_F32] = PACKS(natural, pack_bytes),      [IE_W_F16] = PACKS(natural, pack_bytes),
    [IE_W_BF16] = PACKS(pairs, pack_bytes),       [IE_W_MXFP4] = PACKS(nibbles, pack_bytes_nibbles),
    [IE_W_INT8] = PACKS(int8w, pack_bytes_int8w), [IE_W_INT4] = PACKS(nibbles, pack_bytes_nibbles),
};

size_t ie_few_token_bytes_int8__avx512(int64_t K) {
  return (size_t)ie_div_up(K, MX_CHUNK_COLS) * sizeof(int8_chunk);
}
size_t ie_few_int8_pack_bytes__avx512(int64_t T, int64_t K) {
  return (size_t)T * ie_few_token_bytes_int8__avx512(K);
}

/* Parts 32 numbers of a byte into those of even and of odd columns. */
static void store_even_odd(int8_t even[16], int8_t odd[16], const __m512i q[2]) {
  const __m256i even_odd = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15)); /* in each half */
  __m256i bytes = _mm256_set_m128i(_mm512_cvtepi32_epi8(q[1]), _mm512_cvtepi32_epi8(q[0]));
  bytes = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(bytes, even_odd), 0xD8);
  _mm_storeu_si128((__m128i *)(void *)even, _mm256_castsi256_si128(bytes));
  _mm_storeu_si128((__m128i *)(void *)odd, _mm256_extracti128_si256(bytes, 1));
}

/* start[l] = -offset times the sum of columns 8 l .. 8 l + 7 of a block. */
ALWAYS_INLINE void store_start(int32_t start[4], const __m512i q[2], int offset) {
  for (int h = 0; h < 2; h++) {
    __m512i sum = _mm512_add_epi32(q[h], _mm512_shuffle_epi32(q[h], _MM_PERM_CDAB));
    sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32(sum, _MM_PERM_BADC));
    sum = _mm512_mullo_epi32(_mm512_add_epi32(sum, _mm512_shuffle_i32x4(sum, sum, 0xB1)),
                             _mm512_set1_epi32(-offset));
    start[2 * h] = _mm_cvtsi128_si32(_mm512_castsi512_si128(sum));
    start[2 * h + 1] = _mm_cvtsi128_si32(_mm512_extracti32x4_epi32(sum, 2));
  }
}

/* Columns k .. k + 31 of a row of K, the b-th block of their chunk; beyond the row all is zero. */
ALWAYS_INLINE void pack_int8_block(int8_chunk *out, int b, const float *x, int64_t k, int64_t K,
                                   code_rule codes) {
  __m512 v[2];
  __m512i q[2];
  load_rounded(v, x, k, K, IE_CLASS_F32);
  float s = quantise_block(q, v[0], v[1]);
  store_even_odd(out->even + 16 * b, out->odd + 16 * b, q);
  store_start(out->start + 4 * b, q, codes.offset);
  for (int l = 0; l < 4; l++) out->scale[4 * b + l] = s / codes.factor;
}

#define DEFINE_PACK_INT8(name, codes)                                                                        \
  void name(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T, int64_t t0,    \
            int64_t t1, int64_t K) {                                                                         \
    (void)T;                                                                                                 \
    for (int64_t t = t0; t < t1; t++) {                                                                      \
      int8_chunk *out = (int8_chunk *)((char *)packed + (size_t)t * ie_few_token_bytes_int8__avx512(K));     \
      const float *row = ie_pack_source(x, x_stride, x_rows, t);                                             \
      for (int64_t k = 0; k < (int64_t)ie_size_align((size_t)K, MX_CHUNK_COLS); k += IE_BLOCK_COLS)          \
        pack_int8_block(&out[k / MX_CHUNK_COLS], (int)(k % MX_CHUNK_COLS / IE_BLOCK_COLS), row, k, K,        \
                        codes);                                                                              \
    }                                                                                                        \
  }
DEFINE_PACK_INT8(ie_pack_few_int8_mxfp4__avx512, codes_mxfp4)
DEFINE_PACK_INT8(ie_pack_few_int8_int4__avx512, codes_int4)

size_t ie_few_token_bytes_int8_int8__avx512(int64_t K) {
  return (size_t)ie_div_up(K, INT8_CHUNK_COLS) * sizeof(int8_wide_chunk);
}
size_t ie_few_int8_int8_pack_bytes__avx512(int64_t T, int64_t K) {
  return (size_t)T * ie_few_token_bytes_int8_int8__avx512(K);
}

/* The b-th block (0 or 1) of a chunk. */
static void pack_wide_block(int8_wide_chunk *out, int b, const float *x, int64_t k, int64_t K) {
  __m512 v[2];
  __m512i q[2];
  load_rounded(v, x, k, K, IE_CLASS_F32);
  float s = quantise_block(q, v[0], v[1]);
  __m256i bytes = _mm256_set_m128i(_mm512_cvtepi32_epi8(q[1]), _mm512_cvtepi32_epi8(q[0]));
  /* -128 times the sums of four: 128 as the unsigned operand, then the sign */
  __m256i sums =
      _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8((char)codes_int8.offset), bytes);
  _mm256_storeu_si256((__m256i *)(void *)(out->q + 32 * b), bytes);
  _mm256_storeu_si256((__m256i *)(void *)(out->start + 8 * b),
                      _mm256_sub_epi32(_mm256_setzero_si256(), sums));
  _mm256_storeu_ps(out->scale + 8 * b, _mm256_set1_ps(s));
}

void ie_pack_few_int8_int8__avx512(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows,
                                   int64_t T, int64_t t0, int64_t t1, int64_t K) {
  (void)T;
  for (int64_t t = t0; t < t1; t++) {
    int8_wide_chunk *out =
        (int8_wide_chunk *)((char *)packed + (size_t)t * ie_few_token_bytes_int8_int8__avx512(K));
    const float *row = ie_pack_source(x, x_stride, x_rows, t);
    for (int64_t k = 0; k < (int64_t)ie_size_align((size_t)K, INT8_CHUNK_COLS); k += IE_BLOCK_COLS)
      pack_wide_block(&out[k / INT8_CHUNK_COLS], (int)(k % INT8_CHUNK_COLS / IE_BLOCK_COLS), row, k, K);
  }
}

size_t ie_few_token_bytes_fixed__avx512(int64_t K) {
  return (size_t)ie_div_up(K, MX_CHUNK_COLS) * sizeof(fixed_chunk);
}
size_t ie_few_fixed_pack_bytes__avx512(int64_t T, int64_t K) {
  return (size_t)T * ie_few_token_bytes_fixed__avx512(K);
}

/* X of a block, and the unit: 2^(e - 22) for the smallest e >= -100 with all |x| < 2^e. NaN and infinity make the
 * unit NaN. Multiplying by a power of two is exact, so the conversion rounds once. */
ALWAYS_INLINE float fix_block(__m512i q[2], const __m512 x[2]) {
  __m512 a0 = _mm512_abs_ps(x[0]), a1 = _mm512_abs_ps(x[1]), inf = _mm512_set1_ps(INFINITY);
  q[0] = q[1] = _mm512_setzero_si512();
  __mmask16 finite = _mm512_cmp_ps_mask(a0, inf, _CMP_LT_OQ) & _mm512_cmp_ps_mask(a1, inf, _CMP_LT_OQ);
  if (finite != 0xFFFF) return NAN;
  int exponent = (int)(ie_f32_bits(_mm512_reduce_max_ps(_mm512_max_ps(a0, a1))) >> 23) - 126;
  if (exponent < -100) exponent = -100;
  __m512 per_unit = _mm512_set1_ps(ie_f32_from_bits((uint32_t)(127 + 22 - exponent) << 23));
  q[0] = _mm512_cvtps_epi32(_mm512_mul_ps(x[0], per_unit));
  q[1] = _mm512_cvtps_epi32(_mm512_mul_ps(x[1], per_unit));
  return ie_f32_from_bits((uint32_t)(127 - 22 + exponent) << 23);
}

ALWAYS_INLINE void pack_fixed_block(fixed_chunk *out, int b, const float *x, int64_t k, int64_t K,
                                    ie_class class, code_rule codes) {
  __m512 v[2];
  __m512i q[2], digit[2];
  load_rounded(v, x, k, K, class);
  float unit = fix_block(q, v);
  store_start(out->start + 4 * b, q, codes.offset);
  for (int l = 0; l < 4; l++) out->unit[4 * b + l] = unit / codes.factor;
  for (int d = 2; d >= 0; d--) {
    for (int h = 0; h < 2; h++) {
      digit[h] = _mm512_srai_epi32(_mm512_slli_epi32(q[h], 24), 24); /* the low byte, signed */
      q[h] = _mm512_srai_epi32(_mm512_sub_epi32(q[h], digit[h]), 8);
    }
    store_even_odd(out->even[d] + 16 * b, out->odd[d] + 16 * b, digit);
  }
}

#define DEFINE_PACK_FIXED(name, class, codes)                                                                \
  void name(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T, int64_t t0,    \
            int64_t t1, int64_t K) {                                                                         \
    (void)T;                                                                                                 \
    for (int64_t t = t0; t < t1; t++) {                                                                      \
      fixed_chunk *out = (fixed_chunk *)((char *)packed + (size_t)t * ie_few_token_bytes_fixed__avx512(K));  \
      const float *row = ie_pack_source(x, x_stride, x_rows, t);                                             \
      for (int64_t k = 0; k < (int64_t)ie_size_align((size_t)K, MX_CHUNK_COLS); k += IE_BLOCK_COLS)          \
        pack_fixed_block(&out[k / MX_CHUNK_COLS], (int)(k % MX_CHUNK_COLS / IE_BLOCK_COLS), row, k, K,       \
                         class, codes);                                                                      \
    }                                                                                                        \
  }
DEFINE_PACK_FIXED(ie_pack_few_fixed_bf16_mxfp4__avx512, IE_CLASS_BF16, codes_mxfp4)
DEFINE_PACK_FIXED(ie_pack_few_fixed_f16_mxfp4__avx512, IE_CLASS_F16, codes_mxfp4)
DEFINE_PACK_FIXED(ie_pack_few_fixed_bf16_int4__avx512, IE_CLASS_BF16, codes_int4)
DEFINE_PACK_FIXED(ie_pack_few_fixed_f16_int4__avx512, IE_CLASS_F16, codes_int4)
