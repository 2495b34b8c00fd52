/* The tile instructions, or with CLOCHER_AMX_EMULATE a plain C emulation of them for the tests, so that the logic of
 * the kernels is proved on machines without AMX.
 *
 * Source: Intel SDM volume 2, LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TDPBF16PS. All eight tiles are configured
 * as 16 rows of 64 bytes. TDPBF16PS, for each element of the result: one chain of FMA over the even numbers of the
 * pairs, one over the odd ones, both from zero; then even + odd, then the old element + that. Rounding to nearest
 * even; denormal inputs and results are zero; MXCSR plays no part. Tile numbers must be literals. */
#ifndef CLOCHER_KERNELS_AMX_TILE_H
#define CLOCHER_KERNELS_AMX_TILE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The operand of LDTILECFG (SDM volume 1, 18.4). */
typedef struct tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} tile_config;
_Static_assert(sizeof(tile_config) == 64, "the processor reads 64 bytes");

static inline tile_config tile_config_all(void) {
  tile_config config = {.palette = 1};
  for (int t = 0; t < 8; t++) {
    config.row_bytes[t] = 64;
    config.rows[t] = 16;
  }
  return config;
}

#if !defined(CLOCHER_AMX_EMULATE)

#include <immintrin.h>

static inline void tiles_begin(void) {
  tile_config config = tile_config_all();
  _tile_loadconfig(&config);
}
static inline void tiles_end(void) {
  _tile_release();
}
/* Stores before it are done before the tile loads after it: GCC 12 is not told that those read memory. */
static inline void tile_barrier(void) {
  __asm__ volatile("" ::: "memory");
}
#define tile_zero(t)                _tile_zero(t)
#define tile_load(t, base, stride)  _tile_loadd(t, base, stride)
#define tile_store(t, base, stride) _tile_stored(t, base, stride)
#define tile_add_products(c, a, b)  _tile_dpbf16ps(c, a, b)

#else

#include "base/float.h"

#include <assert.h>
#include <math.h>

typedef struct tile_state {
  uint8_t bytes[8][16][64];
  int configured;
} tile_state;

static _Thread_local tile_state tiles;

static inline void tiles_begin(void) {
  tile_config config = tile_config_all();
  static_assert(sizeof config == 64, "the operand of LDTILECFG has 64 bytes");
  assert(config.palette == 1);
  memset(&tiles, 0, sizeof tiles);
  tiles.configured = 1;
}

static inline void tiles_end(void) {
  tiles.configured = 0;
}

static inline void tile_barrier(void) {}

static inline void tile_zero(int t) {
  assert(tiles.configured);
  memset(tiles.bytes[t], 0, sizeof tiles.bytes[t]);
}

static inline void tile_load(int t, const void *base, size_t stride) {
  assert(tiles.configured);
  for (size_t r = 0; r < 16; r++) memcpy(tiles.bytes[t][r], (const uint8_t *)base + r * stride, 64);
}

static inline void tile_store(int t, void *base, size_t stride) {
  assert(tiles.configured);
  for (size_t r = 0; r < 16; r++) memcpy((uint8_t *)base + r * stride, tiles.bytes[t][r], 64);
}

static inline float tile_flush(float x) {
  return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x;
}

static inline float tile_number(int t, int row, int i) {
  uint16_t h;
  memcpy(&h, &tiles.bytes[t][row][2 * i], sizeof h);
  return tile_flush(ie_bf16_to_f32(h));
}

static inline void tile_add_products(int c, int a, int b) {
  assert(tiles.configured && c != a && c != b && a != b);
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 16; n++) {
      float even = 0, odd = 0, old;
      for (int k = 0; k < 16; k++) {
        even = tile_flush(fmaf(tile_number(a, m, 2 * k), tile_number(b, k, 2 * n), even));
        odd = tile_flush(fmaf(tile_number(a, m, 2 * k + 1), tile_number(b, k, 2 * n + 1), odd));
      }
      memcpy(&old, &tiles.bytes[c][m][4 * n], sizeof old);
      old = tile_flush(tile_flush(old) + tile_flush(even + odd));
      memcpy(&tiles.bytes[c][m][4 * n], &old, sizeof old);
    }
}

#endif

#endif
