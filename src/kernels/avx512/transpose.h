/* A 16 x 16 matrix of 32-bit elements in registers, transposed: row i, lane j becomes row j, lane i. */
#ifndef CLOCHER_KERNELS_AVX512_TRANSPOSE_H
#define CLOCHER_KERNELS_AVX512_TRANSPOSE_H

#include <immintrin.h>

static inline __attribute__((always_inline)) void transpose_16x16(__m512i v[16]) {
  __m512i a[16], b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) { /* pairs of rows: 2 x 2 */
    a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) /* b[i + c]: column c of each 128-bit lane, of rows i .. i + 3 */
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + 2 + j]);
      b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + 2 + j]);
    }
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) { /* 128-bit lanes of rows 0, 4, 8, 12 */
    __m512i low01 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88),
            low23 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xDD);
    __m512i high01 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88);
    __m512i high23 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xDD);
    v[c] = _mm512_shuffle_i32x4(low01, high01, 0x88);
    v[8 + c] = _mm512_shuffle_i32x4(low01, high01, 0xDD);
    v[4 + c] = _mm512_shuffle_i32x4(low23, high23, 0x88);
    v[12 + c] = _mm512_shuffle_i32x4(low23, high23, 0xDD);
  }
}

#endif
