/* Products of training in class bf16 on AMX tiles: 32 x 32 of C as 2 x 2 tiles, 32 k a step. Proved against an
 * emulation of the tile instructions (tests/test_gemm.c); it has never run on hardware. */
#include "base/size.h"
#include "kernels/amx/tile.h"
#include "kernels/avx512/gemm_tiles.h"

/* Two tiles of A and two of B a step; of a thin block, what lies beyond row or column 16 is left out. */
static void multiply(float *sums, const ie_gemm_tile *tile) {
  const char *a = (const char *)tile->a, *b = (const char *)tile->b;
  const bool wide = tile->n > IE_GEMM_TILE / 2, tall = tile->m > IE_GEMM_TILE / 2;
  tile_barrier();
  tile_zero(0);
  tile_zero(1);
  tile_zero(2);
  tile_zero(3);
  for (int64_t k = 0; k < tile->K; k += IE_GEMM_TILE_STEP) {
    tile_load(4, a, 64);
    tile_load(6, b, 64);
    tile_add_products(0, 4, 6);
    if (wide) {
      tile_load(7, b + IE_GEMM_TILE_BYTES, 64);
      tile_add_products(1, 4, 7);
    }
    if (tall) {
      tile_load(5, a + IE_GEMM_TILE_BYTES, 64);
      tile_add_products(2, 5, 6);
      if (wide) tile_add_products(3, 5, 7);
    }
    a += 2 * IE_GEMM_TILE_BYTES;
    b += 2 * IE_GEMM_TILE_BYTES;
  }
  const size_t stride = IE_GEMM_TILE * sizeof(float);
  tile_store(0, sums, stride);
  tile_store(1, sums + IE_GEMM_TILE / 2, stride);
  tile_store(2, sums + IE_GEMM_TILE / 2 * IE_GEMM_TILE, stride);
  tile_store(3, sums + IE_GEMM_TILE / 2 * IE_GEMM_TILE + IE_GEMM_TILE / 2, stride);
  tile_barrier();
}

static void run(const ie_gemm_tile *tile) {
  float sums[IE_GEMM_TILE * IE_GEMM_TILE] __attribute__((aligned(64)));
  multiply(sums, tile);
  ie_gemm_tiles_store__avx512(tile, sums);
}

static void begin(void) {
  tiles_begin();
}
static void end(void) {
  tiles_end();
}

void ie_kernels_fill_gemm__amx(ie_kernels *out) {
  out->gemm_bf16 = (ie_gemm_kernel){.mr = IE_GEMM_TILE,
                                    .nr = IE_GEMM_TILE,
                                    .pack_a = ie_gemm_tiles_pack_a__avx512,
                                    .pack_b = ie_gemm_tiles_pack_b__avx512,
                                    .begin = begin,
                                    .end = end,
                                    .run = run};
}
