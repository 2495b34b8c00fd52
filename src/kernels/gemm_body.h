/* Tiles and panels of gemm.h in the vocabulary of simd.h. The file that includes this has included its simd.h,
 * and defines MR (rows of a tile), GEMM_ROWS(X) (X(1) .. X(MR)) and quads_load: 4 columns from k on of the VF_LANES
 * / 4 rows q, q + 4, .. of the given ones. A tile has two vectors of columns: MR * 2 sums, two vectors of B and one
 * number of A fill the registers. */
#ifndef CLOCHER_KERNELS_GEMM_BODY_H
#define CLOCHER_KERNELS_GEMM_BODY_H

#include "base/float.h"
#include "base/size.h"
#include "kernels/gemm.h"

#ifdef KERNEL /* nothing without the vocabulary */

enum { NV = 2, NR = NV * VF_LANES };
enum {
  AHEAD_ROWS = 4
}; /* rows of memory that are prefetched, as they lie too far apart for the machine to see them */

/* --- Tiles ------------------------------------------------------------------------------------------------------- */

/* alpha * sum + bias, stored or added: the order of the scalar definition. */
INLINE void row_store(const ie_gemm_tile *tile, int i, const int nv, const vf *sum) {
  float *c = tile->c + i * tile->c_stride;
  vf alpha = vf_set1(tile->alpha);
  UNROLL for (int v = 0; v < nv; v++) {
    int64_t n = ie_min_i64(tile->n - v * VF_LANES, VF_LANES);
    vf s = vf_mul(alpha, sum[v]);
    if (tile->bias != NULL) s = vf_add(s, vf_load_n(tile->bias + v * VF_LANES, n));
    if (tile->add) s = vf_add(vf_load_n(c + v * VF_LANES, n), s);
    vf_store_n(c + v * VF_LANES, s, n);
  }
}

/* Constant m and nv: one function for each number of rows and vectors, so that no row of a thin tile is wasted. */
INLINE void tile_run(const ie_gemm_tile *tile, const int m, const int nv) {
  vf sum[MR][NV];
  UNROLL for (int i = 0; i < m; i++) UNROLL for (int v = 0; v < nv; v++) sum[i][v] = vf_set1(0);
  const float *a = tile->a, *b = tile->b;
  const char *ahead = (const char *)tile->ahead;
  const int64_t ahead_step = tile->ahead_step * (int64_t)sizeof(float);
  UNROLL for (int i = 0; i < m; i++) UNROLL for (int v = 0; v < nv; v++)
      _mm_prefetch((const char *)(tile->c + i * tile->c_stride + v * VF_LANES), _MM_HINT_T0);
  for (int64_t k = 0; k < tile->K; k++, a += MR, b += NR) {
    _mm_prefetch(ahead, _MM_HINT_T1);
    ahead += ahead_step;
    vf y[NV];
    UNROLL for (int v = 0; v < nv; v++) y[v] = vf_load(b + v * VF_LANES);
    UNROLL for (int i = 0; i < m; i++) {
      vf x = vf_set1(a[i]);
      UNROLL for (int v = 0; v < nv; v++) sum[i][v] = vf_fma(x, y[v], sum[i][v]);
    }
  }
  UNROLL for (int i = 0; i < m; i++) row_store(tile, i, nv, sum[i]);
}

#define DEFINE_TILES(m)                                                                                      \
  static void tile_##m##_1(const ie_gemm_tile *tile) {                                                       \
    tile_run(tile, m, 1);                                                                                    \
  }                                                                                                          \
  static void tile_##m##_2(const ie_gemm_tile *tile) {                                                       \
    tile_run(tile, m, 2);                                                                                    \
  }
GEMM_ROWS(DEFINE_TILES)

static void gemm_run(const ie_gemm_tile *tile) {
#define NAME_TILES(m) {tile_##m##_1, tile_##m##_2},
  static void (*const tiles[MR][NV])(const ie_gemm_tile *) = {GEMM_ROWS(NAME_TILES)};
  tiles[tile->m - 1][tile->n > VF_LANES](tile);
}

/* --- Panels ------------------------------------------------------------------------------------------------------ */

INLINE vf rounded(vf x, const bool bf16) {
  return bf16 ? vf_round_bf16(x) : x;
}

/* The numbers of row k of all panels, four cache lines or more. */
INLINE const float *column_row(const ie_gemm_block *block, int64_t k) {
  return block->x + (block->k_rows ? block->k_rows[k] : k) * block->k_stride;
}

/* Rows of C along memory: a row of all panels at a time, so that memory is read in its order. */
INLINE void columns_pack(float *out, const int width, int64_t panel_stride, const ie_gemm_block *block,
                         const bool bf16) {
  for (int64_t k = 0; k < block->K; k++) {
    const float *x = column_row(block, k);
    float *to = out + k * width;
    if (k + AHEAD_ROWS < block->K) {
      const float *next = column_row(block, k + AHEAD_ROWS);
      for (int64_t i = 0; i < block->n; i += 16) _mm_prefetch((const char *)(next + i), _MM_HINT_T0);
    }
    for (int64_t i = 0; i < block->n; i += width, to += panel_stride)
      UNROLL for (int v = 0; v < width; v += VF_LANES) {
        const int lanes = width - v < VF_LANES ? width - v : VF_LANES;
        int64_t n = ie_max_i64(0, ie_min_i64(lanes, block->n - i - v));
        vf_store_n(to + v, rounded(vf_load_n(x + i + v, n), bf16), lanes);
      }
  }
}

/* Depth along memory: VF_LANES rows of at most one panel are transposed, four columns at a time. The rows that there
 * are not repeat the last one. */
INLINE void rows_transpose(float *out, const int width, const int lanes, const float *const row[VF_LANES],
                           int64_t K, const bool bf16) {
  int64_t k = 0;
  for (; k + 4 <= K; k += 4) {
    vf r[4];
    UNROLL for (int q = 0; q < 4; q++) r[q] = quads_load(row + q, k);
    vf_transpose_quads(r);
    UNROLL for (int q = 0; q < 4; q++) vf_store_n(out + (k + q) * width, rounded(r[q], bf16), lanes);
  }
  for (; k < K; k++) {
    float column[VF_LANES];
    for (int i = 0; i < VF_LANES; i++) column[i] = row[i][k];
    vf_store_n(out + k * width, rounded(vf_load(column), bf16), lanes);
  }
}

INLINE void rows_pack(float *out, const int width, int64_t panel_stride, const ie_gemm_block *block,
                      const bool bf16) {
  for (int64_t i = 0; i < block->n; i += width, out += panel_stride)
    for (int v = 0; v < width && i + v < block->n; v += VF_LANES) {
      const float *row[VF_LANES];
      for (int64_t l = 0; l < VF_LANES; l++) {
        int64_t r = ie_min_i64(i + v + l, block->n - 1);
        row[l] = block->x + (block->i_rows ? block->i_rows[r] : r) * block->i_stride;
      }
      rows_transpose(out + v, width, width - v < VF_LANES ? width - v : VF_LANES, row, block->K, bf16);
    }
}

/* Any strides. */
static void numbers_pack(float *out, int width, int64_t panel_stride, const ie_gemm_block *block) {
  for (int64_t i = 0; i < ie_div_up(block->n, width) * width; i++)
    for (int64_t k = 0; k < block->K; k++) {
      int64_t r = ie_min_i64(i, block->n - 1);
      const float *x = block->x + (block->i_rows ? block->i_rows[r] : r) * block->i_stride +
                       (block->k_rows ? block->k_rows[k] : k) * block->k_stride;
      out[i / width * panel_stride + k * width + i % width] = block->bf16 ? ie_f32_round_bf16(*x) : *x;
    }
}

INLINE void width_pack(float *out, const int width, int64_t panel_stride, const ie_gemm_block *block,
                       const bool bf16) {
  if (block->i_stride == 1 && block->i_rows == NULL)
    columns_pack(out, width, panel_stride, block, bf16);
  else if (block->k_stride == 1 && block->k_rows == NULL)
    rows_pack(out, width, panel_stride, block, bf16);
  else
    numbers_pack(out, width, panel_stride, block);
}

static void gemm_pack_a(float *out, int64_t panel_stride, const ie_gemm_block *block) {
  if (block->bf16)
    width_pack(out, MR, panel_stride, block, true);
  else
    width_pack(out, MR, panel_stride, block, false);
}
static void gemm_pack_b(float *out, int64_t panel_stride, const ie_gemm_block *block) {
  if (block->bf16)
    width_pack(out, NR, panel_stride, block, true);
  else
    width_pack(out, NR, panel_stride, block, false);
}

void KERNEL(ie_kernels_fill_gemm)(ie_kernels *out) {
  out->gemm =
      (ie_gemm_kernel){.mr = MR, .nr = NR, .pack_a = gemm_pack_a, .pack_b = gemm_pack_b, .run = gemm_run};
  out->gemm_bf16 = out->gemm;
}

#endif
#endif
