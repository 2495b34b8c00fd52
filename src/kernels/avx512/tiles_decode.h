/* Weights as the A operand of the matrix units, one block of columns at a time. For files of avx512/ and amx/ only. */
#ifndef CLOCHER_KERNELS_AVX512_TILES_DECODE_H
#define CLOCHER_KERNELS_AVX512_TILES_DECODE_H

#include "blocks/int4.h"
#include "blocks/mxfp4.h"
#include "kernels/avx512/products.h"

/* Two registers of 16 floats that are bf16: number i of the first, number i of the second, side by side. */
ALWAYS_INLINE __m512i halves_bf16(__m512i first, __m512i second) {
  return _mm512_or_si512(_mm512_srli_epi32(first, 16), second);
}

/* 16 numbers in bf16, twice: vpermw reads five bits of a lane. */
ALWAYS_INLINE __m512i table_bf16(const float values[16]) {
  __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(_mm512_loadu_ps(values)), 16));
  return _mm512_inserti64x4(_mm512_castsi256_si512(half), half, 1);
}

/* The numbers of a table that 16 bytes of nibbles name, in column order. */
ALWAYS_INLINE __m512i nibbles_bf16(const uint8_t *p, __m512i table) {
  __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
  return _mm512_permutexvar_epi16(_mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12)), table);
}

/* A block of MXFP4 whose numbers are normal: the scale is added to the exponents of all but the zeros. */
ALWAYS_INLINE void decode_mxfp4_bf16(uint16_t *out, const uint8_t *p, uint8_t scale, __m512i table) {
  const __mmask32 nonzero = 0xFEFEFEFE;
  __m512i exponent = _mm512_set1_epi16((short)((scale - 127) * 128));
  _mm512_storeu_si512(out, nibbles_bf16(p, _mm512_mask_add_epi16(table, nonzero, table, exponent)));
}

/* 32 codes of INT4, unscaled. */
ALWAYS_INLINE void decode_int4_bf16(uint8_t *out, const uint8_t *p, __m512i table) {
  _mm512_storeu_si512(out, nibbles_bf16(p, table));
}

/* 32 codes of INT8, unscaled: columns i and 16 + i side by side. */
ALWAYS_INLINE void decode_int8_bf16(uint8_t *out, const uint8_t *p) {
  __m512i v[2];
#pragma GCC unroll 2
  for (int h = 0; h < 2; h++)
    v[h] = _mm512_castps_si512(_mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * h)))));
  _mm512_storeu_si512(out, halves_bf16(v[0], v[1]));
}

/* 32 numbers of f16 as the exact sum of two of bf16, columns i and 16 + i side by side; `left` < 32 ends the row. The
 * upper part is cut off after eight bits, so the lower one has at most three, of 2^-24 and more: never denormal. What
 * is infinite has no lower part. */
ALWAYS_INLINE void decode_f16_bf16(uint8_t *high, uint8_t *low, const uint8_t *p, int64_t left) {
  __m512 v[2], upper[2];
  __m512i rest[2];
  load_weights(v, p, 0, left, IE_W_F16);
#pragma GCC unroll 2
  for (int h = 0; h < 2; h++) {
    upper[h] =
        _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v[h]), _mm512_set1_epi32((int)0xFFFF0000)));
    __m512 part = _mm512_sub_ps(v[h], upper[h]);
    rest[h] = _mm512_castps_si512(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(part, part, _CMP_ORD_Q), part));
  }
  _mm512_storeu_si512(high, halves_bf16(_mm512_castps_si512(upper[0]), _mm512_castps_si512(upper[1])));
  _mm512_storeu_si512(low, halves_bf16(rest[0], rest[1]));
}

/* `blocks` blocks of 32 nibbles as signed codes: of each block the 16 even columns, then the 16 odd ones. Twice the
 * value of MXFP4. Writes whole chunks of four blocks; beyond the last block stand zeros (MXFP4) or -8 (INT4), which
 * meet no tile. */
ALWAYS_INLINE void decode_nibbles_int8(uint8_t *out, const uint8_t *p, int64_t blocks, ie_wformat format) {
  const __m512i table =
      format == IE_W_MXFP4
          ? _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12))
          : _mm512_broadcast_i32x4(_mm_setr_epi8(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7));
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (int64_t b = 0; b < blocks; b += 4) {
    __m512i v = _mm512_maskz_loadu_epi32(mask16_clamped(4 * (blocks - b)), p + b * 16);
    _mm_prefetch((const char *)p + b * 16 + PREFETCH_BYTES, _MM_HINT_T0);
    __m512i even = _mm512_permutexvar_epi8(v, table);
    __m512i odd = _mm512_permutexvar_epi8(_mm512_srli_epi16(v, 4), table);
    _mm512_storeu_si512(out + 32 * b, _mm512_permutex2var_epi64(even, first, odd));
    _mm512_storeu_si512(out + 32 * b + 64, _mm512_permutex2var_epi64(even, second, odd));
  }
}

#endif
