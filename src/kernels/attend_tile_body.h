/* The body of the kernels of attention under a tape for vector instruction sets; a file includes simd.h of its folder
 * first. The five products of a tile are one loop over blocks of registers (block_product); both of its operands are
 * packed and lie in the first two caches. */
#ifndef CLOCHER_KERNELS_ATTEND_TILE_BODY_H
#define CLOCHER_KERNELS_ATTEND_TILE_BODY_H

#include "base/size.h"
#include "kernels/attend_tile.h"
#include "kernels/weight_exp.h"

#include <string.h>

#ifdef KERNEL /* nothing without the vocabulary */

enum { LANES = IE_ATTEND_QUERIES, TILE = IE_ATTEND_KEYS * IE_ATTEND_QUERIES };
/* Registers of a block: 6 x 4 sums of 32 (AVX-512) or 6 x 2 of 16 (AVX2) leave room for a row of b. */
enum { BLOCK_ROWS = 6, BLOCK_VECS = VF_LANES == 16 ? 4 : 2 };

/* c (M, N) of a (M, K) b (K, N). N is a multiple of IE_ATTEND_PAD. */
typedef struct tile_product {
  const float *a; /* number (m, k) at m * a_row + k * a_step */
  int64_t a_row, a_step;
  const float *b; /* rows b_row apart */
  int64_t b_row;
  float *c; /* rows c_row apart */
  int64_t c_row;
  int64_t M, N, K;
  const float *keep; /* (M), of PRODUCT_KEEP */
} tile_product;

/* c = a b; c += a b; c = keep c + a b */
typedef enum product_mode { PRODUCT_SET, PRODUCT_ADD, PRODUCT_KEEP } product_mode;

INLINE void block_product(const tile_product *p, int64_t m, int64_t n, product_mode mode, int rows,
                          int vecs) {
  vf sum[BLOCK_ROWS][BLOCK_VECS];
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int c = 0; c < vecs; c++) sum[r][c] = vf_set1(0.0f);
  const float *a = p->a + m * p->a_row, *b = p->b + n;
  const int64_t a_row = p->a_row, a_step = p->a_step, b_row = p->b_row;
  for (int64_t k = p->K; k > 0; k--, a += a_step, b += b_row) {
    vf y[BLOCK_VECS];
    UNROLL for (int c = 0; c < vecs; c++) y[c] = vf_load(b + c * VF_LANES);
    UNROLL for (int r = 0; r < rows; r++) {
      vf x = vf_set1(a[r * a_row]);
      UNROLL for (int c = 0; c < vecs; c++) sum[r][c] = vf_fma(x, y[c], sum[r][c]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++) {
    float *to = p->c + (m + r) * p->c_row + n;
    UNROLL for (int c = 0; c < vecs; c++) {
      vf z = sum[r][c];
      if (mode == PRODUCT_ADD) z = vf_add(vf_load(to + c * VF_LANES), z);
      if (mode == PRODUCT_KEEP) z = vf_fma(vf_load(to + c * VF_LANES), vf_set1(p->keep[m + r]), z);
      vf_store(to + c * VF_LANES, z);
    }
  }
}

/* All rows of `vecs` vectors from column n on. */
INLINE void panel_product(const tile_product *p, int64_t n, product_mode mode, int vecs) {
  int64_t m = 0;
  for (; m + 6 <= p->M; m += 6) block_product(p, m, n, mode, /*rows=*/6, vecs);
  if (m + 4 <= p->M) {
    block_product(p, m, n, mode, /*rows=*/4, vecs);
    m += 4;
  }
  for (; m < p->M; m++) block_product(p, m, n, mode, /*rows=*/1, vecs);
}

INLINE void product(const tile_product *p, product_mode mode) {
  int64_t n = 0;
  for (; n + BLOCK_VECS * VF_LANES <= p->N; n += BLOCK_VECS * VF_LANES) panel_product(p, n, mode, BLOCK_VECS);
  if (BLOCK_VECS == 4 && n + 2 * VF_LANES <= p->N) {
    panel_product(p, n, mode, /*vecs=*/2);
    n += 2 * VF_LANES;
  }
  if (BLOCK_VECS == 4 && n < p->N) panel_product(p, n, mode, /*vecs=*/1);
}

static void product_set(const tile_product *p) {
  product(p, PRODUCT_SET);
}
static void product_add(const tile_product *p) {
  product(p, PRODUCT_ADD);
}
static void product_keep(const tile_product *p) {
  product(p, PRODUCT_KEEP);
}

/* Queries rounded up to whole vectors of every instruction set. */
static int64_t lanes_used(const ie_attend_tile *t) {
  return ie_div_up(t->N, IE_ATTEND_PAD) * IE_ATTEND_PAD;
}

/* x (S, LANES) = rows (S, D) columns (D, LANES) */
static void rows_times_columns(float *x, const ie_attend_tile *t, const float *rows, const float *columns) {
  product_set(&(tile_product){.a = rows,
                              .a_row = t->width,
                              .a_step = 1,
                              .b = columns,
                              .b_row = LANES,
                              .c = x,
                              .c_row = LANES,
                              .M = t->S,
                              .N = lanes_used(t),
                              .K = t->D});
}

/* Every query sees every key. */
static bool sees_all(const ie_attend_tile *t) {
  return t->S - 1 <= t->ahead && t->N <= t->window - t->ahead;
}

/* Where query `lane` .. lane + VF_LANES sees key s, x; else `other`. */
INLINE vf seen(const ie_attend_tile *t, int64_t s, int64_t lane, vf x, vf other) {
  int64_t first = s - t->ahead - lane;
  return vf_select_range(x, other, first, first + t->window);
}

/* Logits of VF_LANES queries from `lane` on become weights. */
INLINE void lanes_softmax(const ie_attend_tile *t, const ie_attend_sums *sums, float *p, float *keep,
                          int64_t lane, bool all) {
  const vf least = vf_set1(-3.402823466e38f), zero = vf_set1(0.0f);
  vf before = vf_load(sums->m + lane), most = before, sum = zero;
  for (int64_t s = 0; s < t->S; s++) {
    vf x = vf_load(p + s * LANES + lane);
    most = vf_max(most, all ? x : seen(t, s, lane, x, least));
  }
  for (int64_t s = 0; s < t->S; s++) {
    vf x = weight_exp(vf_sub(vf_load(p + s * LANES + lane), most));
    if (!all) x = seen(t, s, lane, x, zero);
    sum = vf_add(sum, x);
    vf_store(p + s * LANES + lane, x);
  }
  vf factor = weight_exp(vf_sub(before, most));
  vf_store(keep + lane, factor);
  vf_store(sums->m + lane, most);
  vf_store(sums->l + lane, vf_add(vf_mul(vf_load(sums->l + lane), factor), sum));
}

static void KERNEL(attend_tile)(const ie_attend_tile *t, const ie_attend_sums *sums) {
  _Alignas(64) float p[TILE], keep[LANES];
  rows_times_columns(p, t, t->k, t->qt);
  bool all = sees_all(t);
  for (int64_t lane = 0; lane < t->N; lane += VF_LANES) {
    if (all)
      lanes_softmax(t, sums, p, keep, lane, /*all=*/true);
    else
      lanes_softmax(t, sums, p, keep, lane, /*all=*/false);
  }
  product_keep(&(tile_product){.a = p,
                               .a_row = 1,
                               .a_step = LANES,
                               .b = t->v,
                               .b_row = t->width,
                               .c = sums->acc,
                               .c_row = t->width,
                               .M = t->N,
                               .N = t->width,
                               .K = t->S,
                               .keep = keep});
}

/* Logits become weights, gradients of weights those of logits: dS = P (dP - delta). */
INLINE void lanes_flow(const ie_attend_tile *t, const ie_attend_tile_grads *g, float *p, float *ds,
                       int64_t lane, bool all) {
  const vf zero = vf_set1(0.0f);
  vf lse = vf_load(g->lse + lane), delta = vf_load(g->delta + lane);
  for (int64_t s = 0; s < t->S; s++) {
    int64_t at = s * LANES + lane;
    vf x = weight_exp(vf_sub(vf_load(p + at), lse)), flow = vf_mul(x, vf_sub(vf_load(ds + at), delta));
    vf_store(p + at, all ? x : seen(t, s, lane, x, zero));
    vf_store(ds + at, all ? flow : seen(t, s, lane, flow, zero));
  }
}

/* to (S, width) += x (S, N) rows (N, width) */
static void keys_add(const ie_attend_tile *t, float *to, const float *x, const float *rows) {
  product_add(&(tile_product){.a = x,
                              .a_row = LANES,
                              .a_step = 1,
                              .b = rows,
                              .b_row = t->width,
                              .c = to,
                              .c_row = t->width,
                              .M = t->S,
                              .N = t->width,
                              .K = t->N});
}

static void KERNEL(attend_tile_backward)(const ie_attend_tile *t, const ie_attend_tile_grads *g) {
  _Alignas(64) float p[TILE], ds[TILE];
  rows_times_columns(p, t, t->k, t->qt);
  rows_times_columns(ds, t, t->v, g->dyt);
  bool all = sees_all(t);
  for (int64_t lane = 0; lane < t->N; lane += VF_LANES) {
    if (all)
      lanes_flow(t, g, p, ds, lane, /*all=*/true);
    else
      lanes_flow(t, g, p, ds, lane, /*all=*/false);
  }
  keys_add(t, g->dv, p, g->dy);
  keys_add(t, g->dk, ds, g->q);
  product_add(&(tile_product){.a = ds,
                              .a_row = 1,
                              .a_step = LANES,
                              .b = t->k,
                              .b_row = t->width,
                              .c = g->dq,
                              .c_row = t->width,
                              .M = t->N,
                              .N = t->width,
                              .K = t->S});
}

/* columns of VF_LANES rows, four at a time: rows i, i + 4, ... of the 4 loads stand in the 128-bit parts. */
INLINE void transpose_rows(float *columns, const float *rows, int64_t width) {
  for (int64_t d = 0; d < width; d += 4) {
    vf r[4];
    UNROLL for (int i = 0; i < 4; i++) r[i] =
        vf_load_quads((const char *)(rows + i * width + d), 4 * width * (int64_t)sizeof(float));
    vf_transpose_quads(r);
    UNROLL for (int i = 0; i < 4; i++) vf_store(columns + (d + i) * LANES, r[i]);
  }
}

static void KERNEL(attend_pack)(float *rows, float *columns, const float *x, int64_t stride, int64_t N,
                                int64_t D, float factor) {
  const int64_t width = ie_div_up(D, IE_ATTEND_PAD) * IE_ATTEND_PAD;
  const vf by = vf_set1(factor);
  for (int64_t n = 0; n < N; n++) {
    for (int64_t d = 0; d < width; d += VF_LANES) {
      int64_t lanes = ie_max_i64(0, ie_min_i64(VF_LANES, D - d));
      vf_store(rows + n * width + d, vf_mul(by, vf_load_n(x + n * stride + d, lanes)));
    }
  }
  memset(rows + N * width, 0, (size_t)((LANES - N) * width) * sizeof(float));
  for (int64_t n = 0; n < LANES; n += VF_LANES) transpose_rows(columns + n, rows + n * width, width);
}

static void KERNEL(attend_delta)(float *delta, const float *dy, const float *y, int64_t stride, int64_t N,
                                 int64_t D) {
  memset(delta, 0, LANES * sizeof(float));
  for (int64_t n = 0; n < N; n++) {
    vf sum = vf_set1(0.0f);
    for (int64_t d = 0; d < D; d += VF_LANES) {
      int64_t lanes = ie_min_i64(VF_LANES, D - d), at = n * stride + d;
      sum = vf_fma(vf_load_n(dy + at, lanes), vf_load_n(y + at, lanes), sum);
    }
    delta[n] = vf_sum(sum);
  }
}

void KERNEL(ie_attend_tile_fill)(ie_kernels *out) {
  out->attend_pack = KERNEL(attend_pack);
  out->attend_delta = KERNEL(attend_delta);
  out->attend_tile = KERNEL(attend_tile);
  out->attend_tile_backward = KERNEL(attend_tile_backward);
}

#endif
#endif
