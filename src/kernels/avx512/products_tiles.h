/* What AMX products need besides tiles: activations packed as the B operand, MXFP4 rows as a bf16 panel, and stores
 * of a transposed block of sums. In AVX-512, so that amx/ holds nothing but tile code, which the tests also build
 * against an emulation. */
#ifndef CLOCHER_KERNELS_AVX512_PRODUCTS_TILES_H
#define CLOCHER_KERNELS_AVX512_PRODUCTS_TILES_H

#include "kernels/kern.h"

enum {
  IE_TILE_TOKENS = 16,                                      /* of a packed group */
  IE_TILE_COLS = 32,                                        /* of one step */
  IE_TILE_BYTES = 1024,                                     /* 16 rows of 64 bytes */
  IE_SCALED_TILE_BYTES = IE_TILE_BYTES + IE_TILE_TOKENS * 4 /* and a scale for each token */
};

/* Packed activations: for each group of 16 tokens, for each 32 columns (zeros beyond K) one tile: row p holds columns
 * 2 p and 2 p + 1 of token 0, of token 1, ..., in bf16. */
size_t ie_tiles_pack_bytes__avx512(int64_t T, int64_t K);
void ie_pack_tiles__avx512(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T,
                           int64_t t0, int64_t t1, int64_t K);

/* The same with columns i and 16 + i of each 32 in a pair: the order in which f16 and INT8 weights unpack. */
void ie_pack_tiles_halves__avx512(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows,
                                  int64_t T, int64_t t0, int64_t t1, int64_t K);

/* Of class INT8: the codes in bf16, and after each tile the scales of the tokens' 32 columns. */
size_t ie_tiles_int8_pack_bytes__avx512(int64_t T, int64_t K);
void ie_pack_tiles_int8__avx512(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows,
                                int64_t T, int64_t t0, int64_t t1, int64_t K);
void ie_pack_tiles_int8_halves__avx512(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows,
                                       int64_t T, int64_t t0, int64_t t1, int64_t K);

/* True when every number of a row of MXFP4, of `blocks` scales, is a normal bf16 or 0. */
bool ie_tiles_scales_normal__avx512(const uint8_t *scales, int64_t blocks);

/* The numbers of one MXFP4 row in bf16, in column order. Exact: also denormal ones, which the tiles take as zero. */
void ie_tiles_decode_mxfp4__avx512(uint16_t *out, const ie_wview *w, int64_t row);

/* y[t + j, r + i] (i < rows <= 16, j < tokens) from sums[i * stride + j], with bias and add. */
void ie_tiles_store__avx512(const ie_product_args *args, int64_t r, int64_t rows, int64_t t, int64_t tokens,
                            const float *sums, int64_t stride);

#endif
