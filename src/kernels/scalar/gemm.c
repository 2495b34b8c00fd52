/* The definition of the tiles and panels of gemm.h, in plain C. */
#include "base/float.h"
#include "base/size.h"
#include "kernels/kern.h"

enum { MR = 4, NR = 8 };

/* out[k * width + i] = number (i, k) of each panel; 0 for what fills up the last one. */
static void pack(real *out, int width, int64_t panel_stride, const ie_gemm_block *block) {
  for (int64_t i = 0; i < ie_div_up(block->n, width) * width; i++)
    for (int64_t k = 0; k < block->K; k++) {
      real v = 0;
      if (i < block->n)
        v = block->x[(block->i_rows ? block->i_rows[i] : i) * block->i_stride +
                     (block->k_rows ? block->k_rows[k] : k) * block->k_stride];
      if (block->bf16) v = (real)ie_f32_round_bf16((float)v);
      out[i / width * panel_stride + k * width + i % width] = v;
    }
}

static void pack_a(real *out, int64_t panel_stride, const ie_gemm_block *block) {
  pack(out, MR, panel_stride, block);
}
static void pack_b(real *out, int64_t panel_stride, const ie_gemm_block *block) {
  pack(out, NR, panel_stride, block);
}

static void run(const ie_gemm_tile *tile) {
  real sum[MR][NR] = {{0}};
  for (int64_t k = 0; k < tile->K; k++)
    for (int i = 0; i < MR; i++)
      for (int j = 0; j < NR; j++) sum[i][j] += tile->a[k * MR + i] * tile->b[k * NR + j];
  for (int i = 0; i < tile->m; i++)
    for (int j = 0; j < tile->n; j++) {
      real *c = tile->c + i * tile->c_stride + j;
      real v = tile->alpha * sum[i][j] + (tile->bias ? tile->bias[j] : 0);
      *c = tile->add ? *c + v : v;
    }
}

void ie_kernels_fill_gemm__scalar(ie_kernels *out) {
  out->gemm = (ie_gemm_kernel){.mr = MR, .nr = NR, .pack_a = pack_a, .pack_b = pack_b, .run = run};
  out->gemm_bf16 = out->gemm;
}
