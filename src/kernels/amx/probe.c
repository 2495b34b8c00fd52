/* Probe loops with AMX: four sums (2 x 2 tiles) from two tiles of each operand, registers only. The permission for
 * tile data was asked for by ie_cpu_detect; the tile shape is a constant (8 tiles of 16 rows of 64 bytes). */
#include "kernels/probe.h"

#include <immintrin.h>
#include <string.h>

/* SDM volume 1, 18.4: palette, start row, 14 reserved bytes, bytes per row of 16 tiles, rows of 16 tiles. */
typedef struct tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} tile_config;
_Static_assert(sizeof(tile_config) == 64, "the processor reads 64 bytes");

static void tiles_begin(void) {
  tile_config config = {.palette = 1};
  for (int i = 0; i < 8; i++) config.row_bytes[i] = 64, config.rows[i] = 16;
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

static double bf16_run(int64_t rounds) {
  tiles_begin();
  for (int64_t r = 0; r < rounds; r++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return (double)rounds * 4 * (16 * 16 * 32) * 2;
}

static double int8_run(int64_t rounds) {
  tiles_begin();
  for (int64_t r = 0; r < rounds; r++) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
  return (double)rounds * 4 * (16 * 16 * 64) * 2;
}

void ie_probe_loops_fill__amx(ie_probe_loops *out) {
  out->matrix[out->matrix_count++] = (ie_probe_matrix_loop){"amx-bf16", /*integer=*/false, bf16_run};
  out->matrix[out->matrix_count++] = (ie_probe_matrix_loop){"amx-int8", /*integer=*/true, int8_run};
}
