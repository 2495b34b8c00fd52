#include "kernels/peak.h"

#include <immintrin.h>
#include <string.h>

/* Tiles by constants: 8 tiles of 16 rows of 64 bytes. */
static void tiles_configure(void) {
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t column_bytes[16];
    uint8_t rows[16];
  } config;
  memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int i = 0; i < 8; i++) {
    config.column_bytes[i] = 64;
    config.rows[i] = 16;
  }
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
}

static void tiles_release(float *sink) {
  _Alignas(64) float out[16 * 16];
  _tile_stored(0, out, 64);
  *sink = out[0];
  _tile_release();
}

/* 2 x 2 tiles: accumulators 0 to 3, operands 4 to 7. A product is 16 x 16 x 32. */
static double bf16_peak__amx(int64_t rounds, float *sink) {
  tiles_configure();
  for (int64_t n = 0; n < rounds; n++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  tiles_release(sink);
  return 2.0 * 16 * 16 * 32 * 4 * (double)rounds;
}

/* The same with 16 x 16 x 64. */
static double int8_peak__amx(int64_t rounds, float *sink) {
  tiles_configure();
  for (int64_t n = 0; n < rounds; n++) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  tiles_release(sink);
  return 2.0 * 16 * 16 * 64 * 4 * (double)rounds;
}

void ie_peak_fill__amx(ie_peak *out) {
  out->matrix[IE_CLASS_BF16] = (ie_peak_matrix){bf16_peak__amx, "amx-bf16"};
  out->matrix[IE_CLASS_F16] = (ie_peak_matrix){bf16_peak__amx, "amx-bf16"};
  out->matrix[IE_CLASS_INT8] = (ie_peak_matrix){int8_peak__amx, "amx-int8"};
}
