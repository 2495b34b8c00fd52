/* The tile instructions, or with CLOCHER_AMX_EMULATE a plain C emulation of them for the tests, so that the logic of
 * the kernels is proved on machines without AMX.
 *
 * Source: Intel SDM volume 2, LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TDPBF16PS, TDPBSSD. Two shapes:
 *
 *   whole    eight tiles of 16 rows of 64 bytes
 *   bytes    tiles 0 to 3 the same (sums), 4 and 5 of 16 rows of 32 bytes (A: 32 columns of int8), 6 and 7 of 8 rows of
 *            64 bytes (B: columns 4 k .. 4 k + 3 of 16 tokens in row k)
 *
 * TDPBF16PS, for each element of the result: one chain of FMA over the even numbers of the pairs, one over the odd
 * ones, both from zero; then even + odd, then the old element + that. Rounding to nearest even; denormal inputs and
 * results are zero; MXCSR plays no part. TDPBSSD: the old element plus the products of signed bytes, modulo 2^32. Both
 * fault unless the rows of A and C, the rows of B and the columns of A, and the columns of B and C agree and the three
 * tiles differ (exception class AMX-E4); the emulation asserts it. Tile numbers must be literals. */
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

static inline tile_config tile_config_whole(void) {
  tile_config config = {.palette = 1};
  for (int t = 0; t < 8; t++) {
    config.row_bytes[t] = 64;
    config.rows[t] = 16;
  }
  return config;
}

static inline tile_config tile_config_bytes(void) {
  tile_config config = tile_config_whole();
  config.row_bytes[4] = config.row_bytes[5] = 32;
  config.rows[6] = config.rows[7] = 8;
  return config;
}

#if !defined(CLOCHER_AMX_EMULATE)

#include <immintrin.h>

/* Not _tile_loadconfig: that of GCC 12 tells the compiler of the first 8 bytes only, so it might never store the rest. */
static inline void tiles_configure(const tile_config *config) {
  __asm__ volatile("ldtilecfg\t%0" : : "m"(*config));
}
static inline void tiles_begin(void) {
  const tile_config config = tile_config_whole();
  tiles_configure(&config);
}
static inline void tiles_begin_bytes(void) {
  const tile_config config = tile_config_bytes();
  tiles_configure(&config);
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
#define tile_add_bytes(c, a, b)     _tile_dpbssd(c, a, b)

#else

#include "base/float.h"

#include <assert.h>
#include <math.h>

typedef struct tile_state {
  uint8_t bytes[8][16][64];
  tile_config config;
  int configured;
} tile_state;

static _Thread_local tile_state tiles;

static inline void tiles_configure(tile_config config) {
  assert(config.palette == 1);
  memset(&tiles, 0, sizeof tiles);
  tiles.config = config;
  tiles.configured = 1;
}

static inline void tiles_begin(void) {
  tiles_configure(tile_config_whole());
}
static inline void tiles_begin_bytes(void) {
  tiles_configure(tile_config_bytes());
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
  tile_zero(t);
  for (size_t r = 0; r < tiles.config.rows[t]; r++)
    memcpy(tiles.bytes[t][r], (const uint8_t *)base + r * stride, tiles.config.row_bytes[t]);
}

static inline void tile_store(int t, void *base, size_t stride) {
  assert(tiles.configured);
  for (size_t r = 0; r < tiles.config.rows[t]; r++)
    memcpy((uint8_t *)base + r * stride, tiles.bytes[t][r], tiles.config.row_bytes[t]);
}

/* Of 32 bits: rows and columns of the result, and the length of its sums. */
typedef struct tile_extent {
  int rows, cols, sums;
} tile_extent;

static inline tile_extent tile_extent_of(int c, int a, int b) {
  assert(tiles.configured && c != a && c != b && a != b);
  assert(tiles.config.rows[c] == tiles.config.rows[a]);
  assert(tiles.config.row_bytes[c] == tiles.config.row_bytes[b]);
  assert(tiles.config.row_bytes[a] == 4 * tiles.config.rows[b]);
  return (tile_extent){tiles.config.rows[c], tiles.config.row_bytes[c] / 4, tiles.config.rows[b]};
}

static inline float tile_flush(float x) {
  return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x;
}

static inline void tile_numbers(float out[16][32], int t) {
  for (int r = 0; r < 16; r++)
    for (int i = 0; i < 32; i++) {
      uint16_t h;
      memcpy(&h, &tiles.bytes[t][r][2 * i], sizeof h);
      out[r][i] = tile_flush(ie_bf16_to_f32(h));
    }
}

static inline void tile_add_products(int c, int a, int b) {
  const tile_extent e = tile_extent_of(c, a, b);
  float left[16][32], right[16][32];
  tile_numbers(left, a);
  tile_numbers(right, b);
  for (int m = 0; m < e.rows; m++) {
    float even[16] = {0}, odd[16] = {0};
    for (int k = 0; k < e.sums; k++)
      for (int n = 0; n < e.cols; n++) {
        even[n] = tile_flush(fmaf(left[m][2 * k], right[k][2 * n], even[n]));
        odd[n] = tile_flush(fmaf(left[m][2 * k + 1], right[k][2 * n + 1], odd[n]));
      }
    for (int n = 0; n < e.cols; n++) {
      float old;
      memcpy(&old, &tiles.bytes[c][m][4 * n], sizeof old);
      old = tile_flush(tile_flush(old) + tile_flush(even[n] + odd[n]));
      memcpy(&tiles.bytes[c][m][4 * n], &old, sizeof old);
    }
  }
}

static inline void tile_add_bytes(int c, int a, int b) {
  const tile_extent e = tile_extent_of(c, a, b);
  for (int m = 0; m < e.rows; m++)
    for (int n = 0; n < e.cols; n++) {
      uint32_t sum;
      memcpy(&sum, &tiles.bytes[c][m][4 * n], sizeof sum);
      for (int k = 0; k < e.sums; k++)
        for (int i = 0; i < 4; i++)
          sum += (uint32_t)((int8_t)tiles.bytes[a][m][4 * k + i] * (int8_t)tiles.bytes[b][k][4 * n + i]);
      memcpy(&tiles.bytes[c][m][4 * n], &sum, sizeof sum);
    }
}

#endif

#endif
