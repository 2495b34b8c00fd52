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

ALWAYS_INLINE void dot_float(float *out, const ie_dots *dots, ie_shape shape, ie_wformat format) {
  __m512 sum[IE_FEW_ROWS][IE_FEW_TOKENS], scales[IE_FEW_ROWS];
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) sum[j][t] = _mm512_setzero_ps();
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
      step_float(sum, dots, shape, scales, (place){chunk + c, c, false, 0xFFFF}, format);
    if (whole < 4) {
      place end = {chunks - 1, (int)whole, true, mask16(4 * (blocks - 4 * (chunks - 1)))};
      step_float(sum, dots, shape, scales, end, format);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++)
      out[(shape.first + j) * shape.tokens + t] = _mm512_reduce_add_ps(sum[j][t]);
}

/* --- Integers: int8, and the fixed point of bf16 and f16 --------------------------------------------------------------- */

typedef struct weights_by {
  ie_wformat format;
  int digits; /* of an activation: 1, int8_chunk; 3, fixed_chunk */
} weights_by;

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

/* The scales of the four chunks from `chunk` on, 16 bytes a row in either format: row j in bytes 16 j to 16 j + 15, zero
 * where there are none. */
ALWAYS_INLINE __m512i load_rows_scales(const ie_dots *dots, ie_shape shape, int64_t chunk, int64_t blocks) {
  __m512i all = _mm512_setzero_si512();
  bool whole = blocks - 4 * chunk >= 16;
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    const uint8_t *p = dots->scales[shape.first + j] + 4 * chunk;
    _mm_prefetch((const char *)p + 256, _MM_HINT_T0);
    __m128i row = whole ? _mm_loadu_si128((const __m128i *)p)
                        : _mm_maskz_loadu_epi8(mask16_clamped(blocks - 4 * chunk), p);
    all = _mm512_mask_broadcast_i32x4(all, (__mmask16)(0xF << 4 * j), row);
  }
  return all;
}

/* Where the scales of a group's products stand in those of the rows, for the first of four chunks. MXFP4: the upper byte
 * of lane 4 b + i is the place of block b of product i; INT4: word 4 b + i is that of its group, half of it. */
ALWAYS_INLINE __m512i scales_order(ie_shape shape, int g, ie_wformat format) {
  int row[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) row[i] = product_at(shape, g, i) / shape.tokens;
  const __m512i rows = _mm512_broadcast_i32x4(_mm_setr_epi32(row[0], row[1], row[2], row[3]));
  const __m512i block = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  if (format == IE_W_MXFP4) return _mm512_slli_epi32(_mm512_add_epi32(_mm512_slli_epi32(rows, 4), block), 24);
  __m512i words = _mm512_add_epi32(_mm512_slli_epi32(rows, 3), _mm512_srli_epi32(block, 1));
  return _mm512_castsi256_si512(_mm512_cvtepi32_epi16(words));
}

/* The same for the next chunk. */
ALWAYS_INLINE __m512i scales_order_next(__m512i places, ie_wformat format) {
  if (format == IE_W_MXFP4) return _mm512_add_epi32(places, _mm512_set1_epi32(4 << 24));
  return _mm512_add_epi16(places, _mm512_set1_epi16(2));
}

/* Lane 4 b + i: the scale of block b of product i. Infinity where MXFP4 has NaN: dot_integers sees to those rows. */
ALWAYS_INLINE __m512 scales_take(__m512i all, __m512i places, ie_wformat format) {
  if (format == IE_W_INT4)
    return _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutexvar_epi16(places, all)));
  __m512i upper = _mm512_maskz_permutexvar_epi8(0x8888888888888888u, places, all);
  return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_srli_epi32(upper, 1), _mm512_set1_epi32(0x00400000)));
}

typedef struct row_scales {
  __m512i all;                  /* load_rows_scales */
  __m512i place[IE_FEW_TOKENS]; /* scales_order of each group, for the chunk at hand */
} row_scales;

/* Lane 4 b + i: the sum of columns 8 i .. 8 i + 7 of block b, in two short chains of digits, so that adding takes one
 * instruction less than in three, and waiting less than by Horner's scheme. Below 8 * 12 * 2^22, and of a block below
 * 2^31. */
ALWAYS_INLINE __m512i fixed_product(const fixed_chunk *x, __m512i even, __m512i odd) {
  __m512i low = _mm512_dpbusd_epi32(_mm512_load_si512(x->start), even, _mm512_load_si512(x->even[2]));
  low = _mm512_dpbusd_epi32(low, odd, _mm512_load_si512(x->odd[2]));
  __m512i high = _mm512_setzero_si512();
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++) {
    high = _mm512_dpbusd_epi32(high, even, _mm512_load_si512(x->even[i]));
    high = _mm512_slli_epi32(_mm512_dpbusd_epi32(high, odd, _mm512_load_si512(x->odd[i])), 8);
  }
  return _mm512_add_epi32(high, low);
}
ALWAYS_INLINE __m512i int8_product(const int8_chunk *x, __m512i even, __m512i odd) {
  __m512i sum = _mm512_dpbusd_epi32(_mm512_load_si512(x->start), even, _mm512_load_si512(x->even));
  return _mm512_dpbusd_epi32(sum, odd, _mm512_load_si512(x->odd));
}

ALWAYS_INLINE void step_integers(__m512 sum[], const ie_dots *dots, ie_shape shape, row_scales *scales,
                                 place at, weights_by by) {
  __m512i d[IE_FEW_ROWS * IE_FEW_TOKENS];
  __m512 unit[IE_FEW_TOKENS];
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    const uint8_t *p = dots->w[shape.first + j] + 64 * at.chunk;
    _mm_prefetch((const char *)p + PREFETCH_BYTES, _MM_HINT_T0);
    __m512i w = at.last ? _mm512_maskz_loadu_epi32(at.lanes, p) : _mm512_loadu_si512(p);
    __m512i even = unsigned_codes(w, by.format);
    __m512i odd = unsigned_codes(_mm512_srli_epi16(w, 4), by.format);
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) {
      const uint8_t *token = dots->x + (size_t)t * dots->token_bytes;
      const int8_chunk *one = (const int8_chunk *)token + at.chunk;
      const fixed_chunk *three = (const fixed_chunk *)token + at.chunk;
      d[j * shape.tokens + t] =
          by.digits == 1 ? int8_product(one, even, odd) : fixed_product(three, even, odd);
      unit[t] = _mm512_load_ps(by.digits == 1 ? one->scale : three->unit);
    }
  }
  int groups = groups_of(shape);
#pragma GCC unroll 4
  for (int g = 0; g < groups; g++) {
    __m512i four[4];
    __m512 units[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      int product = product_at(shape, g, i);
      four[i] = d[product];
      units[i] = unit[product % shape.tokens];
    }
    __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(add_blocks(four)), blend_products(units));
    sum[g] = _mm512_fmadd_ps(part, scales_take(scales->all, scales->place[g], by.format), sum[g]);
    scales->place[g] = scales_order_next(scales->place[g], by.format);
  }
}

/* Adds the four chains of each product. Rows whose bytes of `nan` (16 a row) are not all clear are NaN. */
ALWAYS_INLINE void integers_store(float *out, const __m512 sum[], ie_shape shape, __mmask64 nan) {
  int groups = groups_of(shape);
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
      bool bad = nan && (nan >> 16 * (product / shape.tokens) & 0xFFFF) != 0;
      out[shape.first * shape.tokens + product] = bad ? NAN : four[i];
    }
  }
}

ALWAYS_INLINE void dot_integers(float *out, const ie_dots *dots, ie_shape shape, weights_by by) {
  __m512 sum[IE_FEW_ROWS];
  __m512i first[IE_FEW_TOKENS];
  row_scales scales;
  __mmask64 nan = 0;
  int groups = groups_of(shape);
#pragma GCC unroll 4
  for (int g = 0; g < groups; g++) {
    sum[g] = _mm512_setzero_ps();
    first[g] = scales_order(shape, g, by.format);
  }
  int64_t blocks = blocks_of(dots->K, by.format), chunks = ie_div_up(blocks, 4);
  for (int64_t chunk = 0; chunk < chunks; chunk += 4) {
    scales.all = load_rows_scales(dots, shape, chunk, blocks);
    if (by.format == IE_W_MXFP4) nan |= _mm512_cmpeq_epi8_mask(scales.all, _mm512_set1_epi8((char)255));
#pragma GCC unroll 4
    for (int g = 0; g < groups; g++) scales.place[g] = first[g];
    int64_t whole = ie_min_i64(4, chunks - 1 - chunk); /* of these four, the chunks that do not end the row */
    for (int c = 0; c < (int)whole; c++)
      step_integers(sum, dots, shape, &scales, (place){chunk + c, c, false, 0xFFFF}, by);
    if (whole < 4) {
      place end = {chunks - 1, (int)whole, true, mask16(4 * (blocks - 4 * (chunks - 1)))};
      step_integers(sum, dots, shape, &scales, end, by);
    }
  }
  integers_store(out, sum, shape, nan);
}

/* --- Shapes ----------------------------------------------------------------------------------------------------- */

ALWAYS_INLINE void dot_int8(float *out, const ie_dots *dots, ie_shape shape, ie_wformat format) {
  dot_integers(out, dots, shape, (weights_by){format, .digits = 1});
}
ALWAYS_INLINE void dot_fixed(float *out, const ie_dots *dots, ie_shape shape, ie_wformat format) {
  dot_integers(out, dots, shape, (weights_by){format, .digits = 3});
}

DEFINE_FEW(mxfp4, dot_float, IE_W_MXFP4, ie_few_token_bytes_nibbles__avx512)
DEFINE_FEW(int8_mxfp4, dot_int8, IE_W_MXFP4, ie_few_token_bytes_int8__avx512)
DEFINE_FEW(fixed_mxfp4, dot_fixed, IE_W_MXFP4, ie_few_token_bytes_fixed__avx512)
DEFINE_FEW(int4, dot_float, IE_W_INT4, ie_few_token_bytes_nibbles__avx512)
DEFINE_FEW(int8_int4, dot_int8, IE_W_INT4, ie_few_token_bytes_int8__avx512)
DEFINE_FEW(fixed_int4, dot_fixed, IE_W_INT4, ie_few_token_bytes_fixed__avx512)
