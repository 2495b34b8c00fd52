#include "kernels/avx512/gemm_tiles.h"

#include "base/size.h"
#include "kernels/avx512/simd.h"
#include "kernels/avx512/transpose.h"

enum { HALF = IE_GEMM_TILE / 2, STEP = IE_GEMM_TILE_STEP };

/* How many of `most` numbers from `at` on there are before `end`. */
INLINE int64_t count_left(int64_t at, int64_t end, int64_t most) {
  return ie_max_i64(0, ie_min_i64(end - at, most));
}

INLINE const float *number_at(const ie_gemm_block *block, int64_t i, int64_t k) {
  return block->x + (block->i_rows ? block->i_rows[i] : i) * block->i_stride +
         (block->k_rows ? block->k_rows[k] : k) * block->k_stride;
}

/* Numbers (i, 2 p) and (i, 2 p + 1), in bf16, in lane i of v[p]: memory runs along i. */
INLINE void load_along_i(__m512i v[16], const ie_gemm_block *block, int64_t i, int64_t k) {
  int64_t lanes = count_left(i, block->n, HALF);
  UNROLL for (int64_t p = 0; p < 16; p++) {
    vf low = vf_set1(0), high = vf_set1(0);
    if (lanes > 0 && k + 2 * p < block->K) low = vf_load_n(number_at(block, i, k + 2 * p), lanes);
    if (lanes > 0 && k + 2 * p + 1 < block->K) high = vf_load_n(number_at(block, i, k + 2 * p + 1), lanes);
    v[p] = _mm512_inserti64x4(_mm512_castsi256_si512(vf_to_bf16(low)), vf_to_bf16(high), 1);
    const __m512i pairs = _mm512_setr_epi32(
        0x00100000, 0x00110001, 0x00120002, 0x00130003, 0x00140004, 0x00150005, 0x00160006, 0x00170007,
        0x00180008, 0x00190009, 0x001A000A, 0x001B000B, 0x001C000C, 0x001D000D, 0x001E000E, 0x001F000F);
    v[p] = _mm512_permutexvar_epi16(pairs, v[p]);
  }
}

/* The same in lane p of v[i]: memory runs along k. */
INLINE void load_along_k(__m512i v[16], const ie_gemm_block *block, int64_t i, int64_t k) {
  int64_t first = count_left(k, block->K, 16), second = count_left(k + 16, block->K, 16);
  UNROLL for (int64_t r = 0; r < 16; r++) {
    v[r] = _mm512_setzero_si512();
    if (i + r >= block->n) continue;
    const float *x = number_at(block, i + r, k);
    __m256i low = vf_to_bf16(vf_load_n(x, first));
    __m256i high = vf_to_bf16(second > 0 ? vf_load_n(x + 16, second) : vf_set1(0));
    v[r] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
}

/* The same of any strides. */
INLINE void load_numbers(__m512i v[16], const ie_gemm_block *block, int64_t i, int64_t k) {
  for (int64_t r = 0; r < 16; r++) {
    float row[STEP] = {0};
    for (int64_t s = 0; i + r < block->n && s < count_left(k, block->K, STEP); s++)
      row[s] = *number_at(block, i + r, k + s);
    v[r] = _mm512_inserti64x4(_mm512_castsi256_si512(vf_to_bf16(vf_load(row))), vf_to_bf16(vf_load(row + 16)),
                              1);
  }
}

/* 16 x 32 numbers as a tile: rows of i (A), or of pairs of k (B). */
INLINE void tile_pack(char *out, const ie_gemm_block *block, int64_t i, int64_t k, const bool rows_of_i) {
  __m512i v[16];
  bool along_i = block->i_stride == 1 && block->i_rows == NULL;
  if (along_i)
    load_along_i(v, block, i, k);
  else if (block->k_stride == 1 && block->k_rows == NULL)
    load_along_k(v, block, i, k);
  else
    load_numbers(v, block, i, k);
  if (along_i == rows_of_i) transpose_16x16(v);
  UNROLL for (int r = 0; r < 16; r++) _mm512_storeu_si512(out + 64 * r, v[r]);
}

INLINE void panels_pack(float *out, int64_t panel_stride, const ie_gemm_block *block, const bool rows_of_i) {
  for (int64_t i = 0; i < block->n; i += IE_GEMM_TILE, out += panel_stride) {
    char *to = (char *)out;
    for (int64_t k = 0; k < block->K; k += STEP, to += 2 * IE_GEMM_TILE_BYTES) {
      tile_pack(to, block, i, k, rows_of_i);
      tile_pack(to + IE_GEMM_TILE_BYTES, block, i + HALF, k, rows_of_i);
    }
  }
}

void ie_gemm_tiles_pack_a__avx512(float *out, int64_t panel_stride, const ie_gemm_block *block) {
  panels_pack(out, panel_stride, block, /*rows_of_i=*/true);
}

void ie_gemm_tiles_pack_b__avx512(float *out, int64_t panel_stride, const ie_gemm_block *block) {
  panels_pack(out, panel_stride, block, /*rows_of_i=*/false);
}

void ie_gemm_tiles_store__avx512(const ie_gemm_tile *tile, const float *sums) {
  vf alpha = vf_set1(tile->alpha);
  for (int i = 0; i < tile->m; i++)
    for (int j = 0; j < tile->n; j += HALF) {
      int64_t n = ie_min_i64(tile->n - j, HALF);
      float *c = tile->c + i * tile->c_stride + j;
      vf s = vf_mul(alpha, vf_load(sums + i * IE_GEMM_TILE + j));
      if (tile->bias != NULL) s = vf_add(s, vf_load_n(tile->bias + j, n));
      if (tile->add) s = vf_add(vf_load_n(c, n), s);
      vf_store_n(c, s, n);
    }
}
