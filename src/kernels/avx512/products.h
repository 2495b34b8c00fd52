/* What the AVX-512 product files share: rounding of activations in registers, the columns' order in each packed
 * layout, and the tables that products.c fills the kernel table from. For files of avx512/ and amx/ only. */
#ifndef CLOCHER_KERNELS_AVX512_PRODUCTS_H
#define CLOCHER_KERNELS_AVX512_PRODUCTS_H

#include "kernels/products_common.h"
#include "kernels/products_few.h"

#include <immintrin.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum {
  PREFETCH_BYTES = 1024, /* ahead of each stream; 512 to 2048 measure the same, none is 12% slower */
  MX_CHUNK_COLS = 128,   /* columns of MXFP4 or INT4 in one 64-byte load */
  INT8_CHUNK_COLS = 64,  /* columns of INT8 in one 64-byte load */
};

/* (1 << n) - 1 for 0 <= n <= 16. */
ALWAYS_INLINE __mmask16 mask16(int64_t n) {
  return (__mmask16)(((uint32_t)1 << n) - 1);
}
/* The first n of 16 numbers, n clamped to 0 .. 16. */
ALWAYS_INLINE __mmask16 mask16_clamped(int64_t n) {
  return mask16(n < 0 ? 0 : n > 16 ? 16 : n);
}

/* Round to nearest even as ie_f32_to_bf16 does, NaN kept quiet; the bf16 bits stand in the upper half of each lane
 * and zeros below: the f32 of the same value. */
ALWAYS_INLINE __m512 round_bf16(__m512 x) {
  __m512i u = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd);
  __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x00400000));
  return _mm512_castsi512_ps(_mm512_and_si512(r, _mm512_set1_epi32((int)0xFFFF0000)));
}

ALWAYS_INLINE __m512 round_f16(__m512 x) {
  return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* ie_quantise_block for 32 numbers in two registers (zero where the row has ended): integers and their scale. */
ALWAYS_INLINE float quantise_block(__m512i q[2], __m512 x0, __m512 x1) {
  __m512 a0 = _mm512_abs_ps(x0), a1 = _mm512_abs_ps(x1), inf = _mm512_set1_ps(INFINITY);
  q[0] = q[1] = _mm512_setzero_si512();
  __mmask16 finite = _mm512_cmp_ps_mask(a0, inf, _CMP_LT_OQ) & _mm512_cmp_ps_mask(a1, inf, _CMP_LT_OQ);
  if (finite != 0xFFFF) return NAN;
  float s = _mm512_reduce_max_ps(_mm512_max_ps(a0, a1)) / 127.0f;
  if (s == 0) return 0;
  __m512 scale = _mm512_set1_ps(s), limit = _mm512_set1_ps(127), lower = _mm512_set1_ps(-127);
  q[0] = _mm512_cvtps_epi32(_mm512_max_ps(lower, _mm512_min_ps(limit, _mm512_div_ps(x0, scale))));
  q[1] = _mm512_cvtps_epi32(_mm512_max_ps(lower, _mm512_min_ps(limit, _mm512_div_ps(x1, scale))));
  return s;
}

/* Loads columns k0 .. k0 + 31 of a row of K as the class has them; zeros beyond K. */
ALWAYS_INLINE void load_rounded(__m512 v[2], const float *x, int64_t k0, int64_t K, ie_class class) {
  v[0] = _mm512_maskz_loadu_ps(mask16_clamped(K - k0), x + k0);
  v[1] = _mm512_maskz_loadu_ps(mask16_clamped(K - k0 - 16), x + k0 + 16);
  if (class == IE_CLASS_BF16) {
    v[0] = round_bf16(v[0]);
    v[1] = round_bf16(v[1]);
  } else if (class == IE_CLASS_F16) {
    v[0] = round_f16(v[0]);
    v[1] = round_f16(v[1]);
  } else if (class == IE_CLASS_INT8) {
    __m512i q[2];
    __m512 s = _mm512_set1_ps(quantise_block(q, v[0], v[1]));
    v[0] = _mm512_mul_ps(_mm512_cvtepi32_ps(q[0]), s);
    v[1] = _mm512_mul_ps(_mm512_cvtepi32_ps(q[1]), s);
  }
}

/* 2^(byte - 127) of `n` <= 16 scale bytes, exact for byte 0, NaN for 255; zero in the lanes from n on. */
ALWAYS_INLINE __m512 load_scales(const uint8_t *scales, __mmask16 n) {
  __m512i bytes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(n, scales));
  __m512i bits = _mm512_maskz_max_epu32(n, _mm512_slli_epi32(bytes, 23), _mm512_set1_epi32(0x00400000));
  __mmask16 nan = _mm512_cmpeq_epi32_mask(bytes, _mm512_set1_epi32(255));
  return _mm512_castsi512_ps(_mm512_mask_or_epi32(bits, nan, bits, _mm512_set1_epi32(0x00400000)));
}

/* 32 columns from column k on as two registers, in the order of the packed activations; zeros from column K on. */
ALWAYS_INLINE void load_weights(__m512 out[2], const uint8_t *row, int64_t k, int64_t n, ie_wformat format) {
  if (format == IE_W_F32) {
    const float *p = (const float *)row + k;
    out[0] = n >= 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(mask16(n), p);
    out[1] = n >= 32 ? _mm512_loadu_ps(p + 16) : _mm512_maskz_loadu_ps(mask16_clamped(n - 16), p + 16);
  } else if (format == IE_W_F16) {
    const uint8_t *p = row + 2 * k;
    __m256i low = n >= 16 ? _mm256_loadu_si256((const __m256i *)p) : _mm256_maskz_loadu_epi16(mask16(n), p);
    __m256i high = n >= 32 ? _mm256_loadu_si256((const __m256i *)(p + 32))
                           : _mm256_maskz_loadu_epi16(mask16_clamped(n - 16), p + 32);
    out[0] = _mm512_cvtph_ps(low);
    out[1] = _mm512_cvtph_ps(high);
  } else {
    const uint8_t *p = row + 2 * k;
    __m512i w = n >= 32 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(((__mmask32)1 << n) - 1, p);
    out[0] = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
    out[1] = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xFFFF0000)));
  }
}

/* Scales of the c-th chunk of four (0 .. 3), each in the four lanes of its block, from those of 16 blocks. */
ALWAYS_INLINE __m512 spread_scales(__m512 sixteen, int c) {
  const __m512i block = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  return _mm512_permutexvar_ps(_mm512_add_epi32(block, _mm512_set1_epi32(4 * c)), sixteen);
}

/* f16 scales as floats, the first 16 or those of the mask; zero in the other lanes. */
ALWAYS_INLINE __m512 load_f16_scales(const uint8_t *scales, __mmask16 n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(n, scales));
}

/* Scales 2 c and 2 c + 1, each in the eight lanes of its group: what one 64-byte load of INT8 or INT4 needs. */
ALWAYS_INLINE __m512 spread_pairs(__m512 sixteen, int c) {
  const __m512i pair = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  return _mm512_permutexvar_ps(_mm512_add_epi32(pair, _mm512_set1_epi32(2 * c)), sixteen);
}

/* Order of columns in a packed row. The unpacking of a 64-byte load of weights gives registers whose lanes are
 * columns some distance apart; activations are stored in that order, so that no product shuffles. */
typedef enum order {
  ORDER_NATURAL, /* f32, f16 and INT8 weights */
  ORDER_PAIRS,   /* bf16 weights: of each 32 columns the 16 even ones, then the 16 odd ones */
  ORDER_NIBBLES, /* MXFP4 and INT4: of each 128 columns the numbers 8 i + 0 (i = 0 .. 15), then 8 i + 1, ... */
} order;

/* Where column k stands in a packed row. */
ALWAYS_INLINE int64_t packed_col(int64_t k, order ordering) {
  if (ordering == ORDER_PAIRS) return k / 32 * 32 + k % 2 * 16 + k % 32 / 2;
  if (ordering == ORDER_NIBBLES) return k / 128 * 128 + k % 8 * 16 + k % 128 / 8;
  return k;
}

/* A pack function for each class. */
typedef void pack_fn(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T,
                     int64_t t0, int64_t t1, int64_t K);
typedef struct float_packs {
  pack_fn *of_class[IE_CLASS_COUNT];
  size_t (*bytes)(int64_t T, int64_t K);
} float_packs;

/* Packed f32 rows for `few` (products_pack.c), by format: rows of f32 in the order in which the weights unpack. */
extern const float_packs ie_few_packs__avx512[IE_W_COUNT];
size_t ie_few_token_bytes__avx512(int64_t K);
size_t ie_few_token_bytes_nibbles__avx512(int64_t K);
size_t ie_few_token_bytes_int8w__avx512(int64_t K); /* of INT8 weights */

/* What class INT8 makes of weights: code = factor * value + offset, not negative. */
typedef struct code_rule {
  int offset;
  float factor;
} code_rule;
static const code_rule codes_mxfp4 = {12, 2}, codes_int8 = {128, 1}, codes_int4 = {8, 1};

/* Packed int8 for `few` with 4-bit weights: for each 128 columns one of these. Lane l stands for columns 8 l ..
 * 8 l + 7. */
typedef struct int8_chunk {
  int8_t even[64], odd[64]; /* q of columns 2 i and 2 i + 1 */
  int32_t start[16];        /* -offset * sum of q over the columns of the lane */
  float scale[16];          /* s / factor of the block of the lane */
} int8_chunk;
size_t ie_few_token_bytes_int8__avx512(int64_t K);
size_t ie_few_int8_pack_bytes__avx512(int64_t T, int64_t K);
pack_fn ie_pack_few_int8_mxfp4__avx512, ie_pack_few_int8_int4__avx512;

/* The same with INT8 weights: for each 64 columns one of these. Lane l stands for columns 4 l .. 4 l + 3. */
typedef struct int8_wide_chunk {
  int8_t q[64];
  int32_t start[16]; /* -128 * sum of q over the columns of the lane */
  float scale[16];   /* s of the block of the lane */
} int8_wide_chunk;
size_t ie_few_token_bytes_int8_int8__avx512(int64_t K);
size_t ie_few_int8_int8_pack_bytes__avx512(int64_t T, int64_t K);
pack_fn ie_pack_few_int8_int8__avx512;

/* Packed bf16 or f16 for `few` with 4-bit weights: fixed point, X = x / unit with |X| <= 2^22 in each block of 32,
 * in three signed digits of base 256, so that VNNI multiplies them (faster than f32: docs/speed-notes/products.md). A number is
 * exact when it is not smaller than 2^-14 (bf16) or 2^-11 (f16) of the largest of its block; else it is off by at
 * most 2^-22 of that one, as a sum in f32 that holds both would be. Integer sums are exact. Units are kept normal:
 * numbers below 2^-123 may vanish. */
typedef struct fixed_chunk {
  int8_t even[3][64], odd[3][64]; /* digits, the highest first */
  int32_t start[16];              /* -offset * sum of X over the columns of the lane */
  float unit[16];                 /* unit / factor */
} fixed_chunk;
size_t ie_few_token_bytes_fixed__avx512(int64_t K);
size_t ie_few_fixed_pack_bytes__avx512(int64_t T, int64_t K);
pack_fn ie_pack_few_fixed_bf16_mxfp4__avx512, ie_pack_few_fixed_f16_mxfp4__avx512;
pack_fn ie_pack_few_fixed_bf16_int4__avx512, ie_pack_few_fixed_f16_int4__avx512;

extern const ie_few ie_few_f32__avx512, ie_few_f16__avx512, ie_few_bf16__avx512; /* products_few.c */
extern const ie_few ie_few_mxfp4__avx512, ie_few_int8_mxfp4__avx512, ie_few_fixed_mxfp4__avx512,
    ie_few_int4__avx512, ie_few_int8_int4__avx512, ie_few_fixed_int4__avx512; /* products_few_nibbles.c */
extern const ie_few ie_few_int8__avx512, ie_few_int8_int8__avx512;            /* products_few_int8.c */

/* The offset weights of class INT8: 12 + 2 * value of each nibble, four times over, as vpermb looks at six bits. */
ALWAYS_INLINE __m512i offset_values(void) {
  return _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
}

/* Nibbles (bits above the low four are ignored) as the codes of class INT8. */
ALWAYS_INLINE __m512i unsigned_codes(__m512i nibbles, ie_wformat format) {
  return format == IE_W_MXFP4 ? _mm512_permutexvar_epi8(nibbles, offset_values())
                              : _mm512_and_si512(nibbles, _mm512_set1_epi8(15));
}

/* Packed int8 for `many`: one block of columns of 16 tokens. Quads are columns in order, or 0 .. 3 the even ones and
 * 4 .. 7 the odd ones of a 4-bit weight. */
enum { GROUP_TOKENS = 16, QUADS = IE_BLOCK_COLS / 4 };
typedef struct group_block {
  int8_t q[QUADS][GROUP_TOKENS][4];
  int32_t start[GROUP_TOKENS]; /* -offset * sum of q */
  float scale[GROUP_TOKENS];   /* s / factor */
} group_block;

/* Blocks b, b + 4, b + 8 ... are one chain of sums, and lie together in the packed tokens. */
enum { CHAINS = 4 };

/* The first packed block of chain c; chain CHAINS is the end. */
ALWAYS_INLINE int64_t chain_start(int64_t c, int64_t blocks) {
  return c * (blocks / CHAINS) + ie_min_i64(c, blocks % CHAINS);
}

/* Scales of 16 blocks of 32 columns from block b on, of `blocks`; zero beyond. */
ALWAYS_INLINE __m512 block_scales(const uint8_t *s, int64_t b, int64_t blocks, ie_wformat format) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  if (format == IE_W_MXFP4) return load_scales(s + b, mask16_clamped(blocks - b));
  if (format == IE_W_INT8) return load_f16_scales(s + 2 * b, mask16_clamped(blocks - b));
  __m512 eight = load_f16_scales(s + b, mask16_clamped(ie_div_up(blocks, 2) - b / 2) & 0xFF);
  return _mm512_permutexvar_ps(twice, eight);
}

/* products_many.c, products_many_int8.c */
extern const ie_product ie_many_int8_mxfp4__avx512, ie_many_int8_int8__avx512, ie_many_int8_int4__avx512;
extern const ie_product ie_many_products__avx512[IE_CLASS_COUNT][IE_W_COUNT];

/* The table of one format: its six shapes from a dot function and what that is told of the weights. */
#define DEFINE_FEW(name, dot_of, by, token_bytes)                                                            \
  static void name##_1x1(float *out, const ie_dots *dots) {                                                  \
    dot_of(out, dots, (ie_shape){0, 1, 1}, by);                                                              \
  }                                                                                                          \
  static void name##_1x2(float *out, const ie_dots *dots) {                                                  \
    dot_of(out, dots, (ie_shape){0, 1, 2}, by);                                                              \
  }                                                                                                          \
  static void name##_1x4(float *out, const ie_dots *dots) {                                                  \
    dot_of(out, dots, (ie_shape){0, 1, 4}, by);                                                              \
  }                                                                                                          \
  static void name##_4x1(float *out, const ie_dots *dots) {                                                  \
    dot_of(out, dots, (ie_shape){0, 4, 1}, by);                                                              \
  }                                                                                                          \
  static void name##_4x2(float *out, const ie_dots *dots) {                                                  \
    dot_of(out, dots, (ie_shape){0, 4, 2}, by);                                                              \
  }                                                                                                          \
  static void name##_4x4(float *out,                                                                         \
                         const ie_dots *dots) { /* two and two rows: else the registers overflow */          \
    dot_of(out, dots, (ie_shape){0, 2, 4}, by);                                                              \
    dot_of(out, dots, (ie_shape){2, 2, 4}, by);                                                              \
  }                                                                                                          \
  const ie_few ie_few_##name##__avx512 = {                                                                   \
      token_bytes, {name##_4x1, name##_4x2, name##_4x4}, {name##_1x1, name##_1x2, name##_1x4}};

#endif
