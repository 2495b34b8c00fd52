/* Matrix-vector products of 4-bit weights, MXFP4 and INT4, 128 columns (64 bytes, four blocks of 32) a step. Lane l of
 * a register holds bytes 4 l .. 4 l + 3, so columns 8 l .. 8 l + 7, and four neighbouring lanes are one block of 32 (of
 * INT4, eight are one of 64): its scale is applied to the sums of the lanes. */
#include "kernels/avx512/products.h"

#include "blocks/int4.h"
#include "blocks/mxfp4.h"

/* Blocks of 32 columns in a row. */
ALWAYS_INLINE int64_t blocks_of(int64_t K, ie_wformat format) {
  return format == IE_W_MXFP4 ? K / IE_BLOCK_COLS : 2 * ie_div_up(K, IE_INT4_COLS);
}

/* The scales of the four chunks from `chunk` on, of a row of `blocks` blocks of 32; zero where there are none. */
ALWAYS_INLINE __m512 load_four(const uint8_t *scales, int64_t chunk, int64_t blocks, ie_wformat format) {
  if (format == IE_W_MXFP4) return load_scales(scales + 4 * chunk, mask16_clamped(blocks - 4 * chunk));
  return load_f16_scales(scales + 4 * chunk, mask16_clamped(blocks / 2 - 2 * chunk) & 0xFF);
}

/* Those of chunk c (0 .. 3), each in the lanes of its block. */
ALWAYS_INLINE __m512 spread(__m512 scales, int c, ie_wformat format) {
  return format == IE_W_MXFP4 ? spread_scales(scales, c) : spread_pairs(scales, c);
}

/* One step of a row: the chunk of 64 bytes, and which of its four it is (the scales of four are loaded together).
 * `last`: it ends the row, and only `lanes` of it exist. */
typedef struct place {
  int64_t chunk;
  int c;
  bool last;
  __mmask16 lanes;
} place;

/* Column 8 l + j of lane l is chosen by the low four bits of element j of the result; bits above are other columns
 * (a table look-up by vpermps ignores them). Loading at the odd byte is free, so that only odd columns need a
 * shift. The end of a row is loaded once, so that nothing beyond it is. */
ALWAYS_INLINE __m512i load_nibbles(const uint8_t *w, int j, place at) {
  __m512i v;
  if (at.last)
    v = _mm512_srli_epi32(_mm512_maskz_loadu_epi32(at.lanes, w), (unsigned)(8 * (j / 2)));
  else
    v = _mm512_loadu_si512(w + j / 2);
  return j % 2 ? _mm512_srli_epi32(v, 4) : v;
}

ALWAYS_INLINE void step_float(__m512 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape,
                              const __m512 *scales, place at, ie_wformat format) {
  const __m512 values = _mm512_loadu_ps(format == IE_W_MXFP4 ? ie_mxfp4_values : ie_int4_values);
  __m512 part[IE_FEW_ROWS][IE_FEW_TOKENS];
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
    _mm_prefetch((const char *)dots->w[shape.first + j] + 64 * at.chunk + PREFETCH_BYTES, _MM_HINT_T0);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < shape.rows; j++) {
      __m512 w = _mm512_permutexvar_ps(load_nibbles(dots->w[shape.first + j] + 64 * at.chunk, i, at), values);
#pragma GCC unroll 4
      for (int t = 0; t < shape.tokens; t++) {
        const float *x = (const float *)(dots->x + (size_t)t * dots->token_bytes) + MX_CHUNK_COLS * at.chunk;
        __m512 xi = _mm512_load_ps(x + 16 * i);
        part[j][t] = i == 0 ? _mm512_mul_ps(w, xi) : _mm512_fmadd_ps(w, xi, part[j][t]);
      }
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    __m512 scale = spread(scales[j], at.c, format);
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) sum[j][t] = _mm512_fmadd_ps(part[j][t], scale, sum[j][t]);
  }
}

/* Three short chains, not one long one by Horner's scheme: the latter waits for its latency. Sums of a lane
 * stay below 8 * 12 * 2^22 < 2^31. */
ALWAYS_INLINE void step_fixed(__m512 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape,
                              const __m512 *scales, place at, ie_wformat format) {
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    const uint8_t *p = dots->w[shape.first + j] + 64 * at.chunk;
    _mm_prefetch((const char *)p + PREFETCH_BYTES, _MM_HINT_T0);
    __m512i w = at.last ? _mm512_maskz_loadu_epi32(at.lanes, p) : _mm512_loadu_si512(p);
    __m512i even = unsigned_codes(w, format);
    __m512i odd = unsigned_codes(_mm512_srli_epi16(w, 4), format);
    __m512 scale = spread(scales[j], at.c, format);
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) {
      const fixed_chunk *x = (const fixed_chunk *)(dots->x + (size_t)t * dots->token_bytes) + at.chunk;
      __m512i digit[3];
#pragma GCC unroll 3
      for (int i = 0; i < 3; i++) {
        digit[i] = i == 2 ? _mm512_load_si512(x->start) : _mm512_setzero_si512();
        digit[i] = _mm512_dpbusd_epi32(digit[i], even, _mm512_load_si512(x->even[i]));
        digit[i] = _mm512_dpbusd_epi32(digit[i], odd, _mm512_load_si512(x->odd[i]));
      }
      __m512i d = _mm512_add_epi32(_mm512_slli_epi32(digit[0], 8), digit[1]);
      d = _mm512_add_epi32(_mm512_slli_epi32(d, 8), digit[2]);
      __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(d), _mm512_load_ps(x->unit));
      sum[j][t] = _mm512_fmadd_ps(part, scale, sum[j][t]);
    }
  }
}

typedef struct weights_by {
  ie_wformat format;
  bool fixed; /* activations are fixed_chunk, else f32 */
} weights_by;

ALWAYS_INLINE void step(__m512 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape,
                        const __m512 *scales, place at, weights_by by) {
  if (by.fixed)
    step_fixed(sum, dots, shape, scales, at, by.format);
  else
    step_float(sum, dots, shape, scales, at, by.format);
}

ALWAYS_INLINE void dot(float *out, const ie_dots *dots, ie_shape shape, weights_by by) {
  __m512 sum[IE_FEW_ROWS][IE_FEW_TOKENS], scales[IE_FEW_ROWS];
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) sum[j][t] = _mm512_setzero_ps();
  int64_t blocks = blocks_of(dots->K, by.format), chunks = ie_div_up(blocks, 4);
  for (int64_t chunk = 0; chunk < chunks; chunk += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < shape.rows; j++) {
      const uint8_t *p = dots->scales[shape.first + j];
      _mm_prefetch((const char *)p + 4 * chunk + 256, _MM_HINT_T0);
      scales[j] = load_four(p, chunk, blocks, by.format);
    }
    int64_t whole = ie_min_i64(4, chunks - 1 - chunk); /* of these four, the chunks that do not end the row */
    for (int c = 0; c < (int)whole; c++)
      step(sum, dots, shape, scales, (place){chunk + c, c, false, 0xFFFF}, by);
    if (whole < 4) {
      place end = {chunks - 1, (int)whole, true, mask16(4 * (blocks - 4 * (chunks - 1)))};
      step(sum, dots, shape, scales, end, by);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++)
      out[(shape.first + j) * shape.tokens + t] = _mm512_reduce_add_ps(sum[j][t]);
}

/* --- int8 ------------------------------------------------------------------------------------------------------- */

/* Class INT8 has one order of sums in both kernels, so that a row does not depend on how many are computed together
 * (products_many_int8.c has the other half): blocks b, b + 4, b + 8 ... are one chain of FMA, and the four chains are
 * added in their order. Here four dot products share a register, so that this costs no instruction more than lanes
 * that are summed apart: lane 4 c + i is chain c of product i. */

/* Lane 4 c + i: the sum of lanes 4 c .. 4 c + 3 of d[i]. */
ALWAYS_INLINE __m512i add_blocks(const __m512i d[4]) {
  __m512i low = _mm512_add_epi32(_mm512_unpacklo_epi32(d[0], d[1]), _mm512_unpackhi_epi32(d[0], d[1]));
  __m512i high = _mm512_add_epi32(_mm512_unpacklo_epi32(d[2], d[3]), _mm512_unpackhi_epi32(d[2], d[3]));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
}

/* Lane 4 c + i from v[i]. */
ALWAYS_INLINE __m512 blend_products(const __m512 v[4]) {
  __m512 low = _mm512_mask_blend_ps(0x2222, v[0], v[1]), high = _mm512_mask_blend_ps(0x8888, v[2], v[3]);
  return _mm512_mask_blend_ps(0xCCCC, low, high);
}

/* Groups of four products of a shape. */
ALWAYS_INLINE int groups_of(ie_shape shape) {
  return (shape.rows * shape.tokens + 3) / 4;
}

/* Product i of group g (rows * tokens <= 4: the last ones repeat) is row first + at / tokens, token at % tokens. */
ALWAYS_INLINE int product_at(ie_shape shape, int g, int i) {
  int at = 4 * g + i, n = shape.rows * shape.tokens;
  return at < n ? at : at % n;
}

ALWAYS_INLINE void step_int8(__m512 sum[], const ie_dots *dots, ie_shape shape, const __m512 *scales,
                             place at, ie_wformat format) {
  __m512i d[IE_FEW_ROWS * IE_FEW_TOKENS];
  __m512 scale[IE_FEW_ROWS], factor[IE_FEW_TOKENS];
#pragma GCC unroll 4
  for (int t = 0; t < shape.tokens; t++)
    factor[t] =
        _mm512_load_ps(((const int8_chunk *)(dots->x + (size_t)t * dots->token_bytes) + at.chunk)->scale);
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    const uint8_t *p = dots->w[shape.first + j] + 64 * at.chunk;
    _mm_prefetch((const char *)p + PREFETCH_BYTES, _MM_HINT_T0);
    __m512i w = at.last ? _mm512_maskz_loadu_epi32(at.lanes, p) : _mm512_loadu_si512(p);
    __m512i even = unsigned_codes(w, format);
    __m512i odd = unsigned_codes(_mm512_srli_epi16(w, 4), format);
    scale[j] = spread(scales[j], at.c, format);
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) {
      const int8_chunk *x = (const int8_chunk *)(dots->x + (size_t)t * dots->token_bytes) + at.chunk;
      __m512i v = _mm512_dpbusd_epi32(_mm512_load_si512(x->start), even, _mm512_load_si512(x->even));
      d[j * shape.tokens + t] = _mm512_dpbusd_epi32(v, odd, _mm512_load_si512(x->odd));
    }
  }
  int groups = groups_of(shape);
#pragma GCC unroll 4
  for (int g = 0; g < groups; g++) {
    __m512i four[4];
    __m512 row_scales[4], factors[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      int product = product_at(shape, g, i);
      four[i] = d[product];
      row_scales[i] = scale[product / shape.tokens];
      factors[i] = factor[product % shape.tokens];
    }
    __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(add_blocks(four)), blend_products(factors));
    sum[g] = _mm512_fmadd_ps(part, blend_products(row_scales), sum[g]);
  }
}

ALWAYS_INLINE void dot_int8(float *out, const ie_dots *dots, ie_shape shape, ie_wformat format) {
  __m512 sum[IE_FEW_ROWS], scales[IE_FEW_ROWS];
  int groups = groups_of(shape);
#pragma GCC unroll 4
  for (int g = 0; g < groups; g++) sum[g] = _mm512_setzero_ps();
  int64_t blocks = blocks_of(dots->K, format), chunks = ie_div_up(blocks, 4);
  for (int64_t chunk = 0; chunk < chunks; chunk += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < shape.rows; j++) {
      const uint8_t *p = dots->scales[shape.first + j];
      _mm_prefetch((const char *)p + 4 * chunk + 256, _MM_HINT_T0);
      scales[j] = load_four(p, chunk, blocks, format);
    }
    int64_t whole = ie_min_i64(4, chunks - 1 - chunk); /* of these four, the chunks that do not end the row */
    for (int c = 0; c < (int)whole; c++)
      step_int8(sum, dots, shape, scales, (place){chunk + c, c, false, 0xFFFF}, format);
    if (whole < 4) {
      place end = {chunks - 1, (int)whole, true, mask16(4 * (blocks - 4 * (chunks - 1)))};
      step_int8(sum, dots, shape, scales, end, format);
    }
  }
#pragma GCC unroll 4
  for (int g = 0; g < groups; g++) {
    __m128 total = _mm_add_ps(_mm512_extractf32x4_ps(sum[g], 0), _mm512_extractf32x4_ps(sum[g], 1));
    total = _mm_add_ps(total, _mm512_extractf32x4_ps(sum[g], 2));
    total = _mm_add_ps(total, _mm512_extractf32x4_ps(sum[g], 3));
    float four[4];
    _mm_storeu_ps(four, total);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      int product = product_at(shape, g, i);
      out[shape.first * shape.tokens + product] = four[i];
    }
  }
}

/* --- Shapes ----------------------------------------------------------------------------------------------------- */

ALWAYS_INLINE void dot_float(float *out, const ie_dots *dots, ie_shape shape, ie_wformat format) {
  dot(out, dots, shape, (weights_by){format, .fixed = false});
}
ALWAYS_INLINE void dot_fixed(float *out, const ie_dots *dots, ie_shape shape, ie_wformat format) {
  dot(out, dots, shape, (weights_by){format, .fixed = true});
}

DEFINE_FEW(mxfp4, dot_float, IE_W_MXFP4, ie_few_token_bytes_nibbles__avx512)
DEFINE_FEW(int8_mxfp4, dot_int8, IE_W_MXFP4, ie_few_token_bytes_int8__avx512)
DEFINE_FEW(fixed_mxfp4, dot_fixed, IE_W_MXFP4, ie_few_token_bytes_fixed__avx512)
DEFINE_FEW(int4, dot_float, IE_W_INT4, ie_few_token_bytes_nibbles__avx512)
DEFINE_FEW(int8_int4, dot_int8, IE_W_INT4, ie_few_token_bytes_int8__avx512)
DEFINE_FEW(fixed_int4, dot_fixed, IE_W_INT4, ie_few_token_bytes_fixed__avx512)
