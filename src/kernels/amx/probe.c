/* Probe loops with AMX: four sums (2 x 2 tiles) from two tiles of each operand, registers only. The permission for
 * tile data was asked for by ie_cpu_detect; the tile shape is a constant (8 tiles of 16 rows of 64 bytes). */
#include "kernels/probe.h"

#include "kernels/amx/tile.h"

static void tiles_clear(void) {
  tiles_begin();
  tile_zero(0);
  tile_zero(1);
  tile_zero(2);
  tile_zero(3);
  tile_zero(4);
  tile_zero(5);
  tile_zero(6);
  tile_zero(7);
}

static double bf16_run(int64_t rounds) {
  tiles_clear();
  for (int64_t r = 0; r < rounds; r++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  tiles_end();
  return (double)rounds * 4 * (16 * 16 * 32) * 2;
}

static double int8_run(int64_t rounds) {
  tiles_clear();
  for (int64_t r = 0; r < rounds; r++) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  tiles_end();
  return (double)rounds * 4 * (16 * 16 * 64) * 2;
}

void ie_probe_loops_fill__amx(ie_probe_loops *out) {
  out->matrix[out->matrix_count++] = (ie_probe_matrix_loop){"amx-bf16", /*integer=*/false, bf16_run};
  out->matrix[out->matrix_count++] = (ie_probe_matrix_loop){"amx-int8", /*integer=*/true, int8_run};
}
