/* What products on AMX tiles (amx/gemm.c) need besides tiles: panels of bf16 in the layout of tiles, and stores of a
 * block of sums. In AVX-512, so that amx/ holds nothing but tile code, which the tests also build against an emulation. */
#ifndef CLOCHER_KERNELS_AVX512_GEMM_TILES_H
#define CLOCHER_KERNELS_AVX512_GEMM_TILES_H

#include "kernels/kern.h"

enum {
  IE_GEMM_TILE = 32,      /* rows and columns of C in a block of 2 x 2 tiles */
  IE_GEMM_TILE_STEP = 32, /* k in one tile */
  IE_GEMM_TILE_BYTES = 1024
};

/* A panel is, for each 32 k (zeros beyond K), two tiles, of i < 16 and of the others; a tile is 16 rows of 64 bytes.
 * A: row i holds its 32 k. B: row p holds k = 2 p and 2 p + 1 of column 0, of column 1, .. */
void ie_gemm_tiles_pack_a__avx512(float *out, int64_t panel_stride, const ie_gemm_block *block);
void ie_gemm_tiles_pack_b__avx512(float *out, int64_t panel_stride, const ie_gemm_block *block);

/* C from sums (32, 32), as ie_gemm_tile says. */
void ie_gemm_tiles_store__avx512(const ie_gemm_tile *tile, const float *sums);

#endif
