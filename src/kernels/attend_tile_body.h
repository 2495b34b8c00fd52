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
  if (BLOCK_VECS == 2) return;
  int64_t rest = (p->N - n) / VF_LANES;
  if (rest == 3) panel_product(p, n, mode, /*vecs=*/3);
  if (rest == 2) panel_product(p, n, mode, /*vecs=*/2);
  if (rest == 1) panel_product(p, n, mode, /*vecs=*/1);
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

/* --- What is seen of a tile ----------------------------------------------------------------------------------- */

/* A tile that is not seen as a whole is computed by patches of PATCH keys and PATCH queries: those of which no query
 * sees a key are skipped in every product. Rounded so, what a patch of keys needs of the queries is what they need of
 * it. */
enum { PATCH = IE_ATTEND_PAD };

typedef struct part {
  int64_t from, to;
} part;

static int64_t patch_floor(int64_t x) {
  return x & -(int64_t)PATCH;
}

/* Every query sees every key. */
static bool sees_all(const ie_attend_tile *t) {
  return t->S - 1 <= t->ahead && t->N <= t->window - t->ahead;
}

/* Queries, whole patches of them, that see keys of the patch at s; with `all`, every query. */
static part queries_of(const ie_attend_tile *t, int64_t s, bool all) {
  int64_t lanes = ie_div_up(t->N, PATCH) * PATCH;
  if (all) return (part){0, lanes};
  int64_t from = ie_max_i64(0, patch_floor(s - t->ahead));
  int64_t to = ie_min_i64(lanes, patch_floor(s - t->ahead + t->window + PATCH - 2) + PATCH);
  return (part){from, ie_max_i64(from, to)};
}

/* Keys, whole patches up to the last, that queries of the patch at n see; with `all`, every key. */
static part keys_of(const ie_attend_tile *t, int64_t n, bool all) {
  if (all) return (part){0, t->S};
  int64_t from = ie_max_i64(0, patch_floor(n + t->ahead - t->window + 1));
  int64_t to = ie_min_i64(t->S, patch_floor(n + t->ahead + PATCH - 1) + PATCH);
  return (part){from, ie_max_i64(from, to)};
}

/* --- Products of a tile ------------------------------------------------------------------------------------------ */

/* x (S, LANES) = rows (S, D) columns (D, LANES) where it is seen */
static void rows_times_columns(float *x, const ie_attend_tile *t, const float *rows, const float *columns) {
  bool all = sees_all(t);
  int64_t step = all ? IE_ATTEND_KEYS : PATCH;
  for (int64_t s = 0; s < t->S; s += step) {
    part queries = queries_of(t, s, all);
    product_set(&(tile_product){.a = rows + s * t->width,
                                .a_row = t->width,
                                .a_step = 1,
                                .b = columns + queries.from,
                                .b_row = LANES,
                                .c = x + s * LANES + queries.from,
                                .c_row = LANES,
                                .M = ie_min_i64(step, t->S - s),
                                .N = queries.to - queries.from,
                                .K = t->D});
  }
}

/* to (S, width) += x (S, N) rows (N, width) */
static void keys_add(const ie_attend_tile *t, float *to, const float *x, const float *rows) {
  bool all = sees_all(t);
  int64_t step = all ? IE_ATTEND_KEYS : PATCH;
  for (int64_t s = 0; s < t->S; s += step) {
    part queries = queries_of(t, s, all);
    product_add(&(tile_product){.a = x + s * LANES + queries.from,
                                .a_row = LANES,
                                .a_step = 1,
                                .b = rows + queries.from * t->width,
                                .b_row = t->width,
                                .c = to + s * t->width,
                                .c_row = t->width,
                                .M = ie_min_i64(step, t->S - s),
                                .N = t->width,
                                .K = ie_min_i64(queries.to, t->N) - queries.from});
  }
}

/* to (N, width) = keep to + x^T (N, S) rows (S, width); keep NULL: ones */
static void queries_add(const ie_attend_tile *t, float *to, const float *x, const float *rows,
                        const float *keep) {
  bool all = sees_all(t);
  int64_t step = all ? IE_ATTEND_QUERIES : PATCH;
  for (int64_t n = 0; n < t->N; n += step) {
    part keys = keys_of(t, n, all);
    tile_product p = {.a = x + keys.from * LANES + n,
                      .a_row = 1,
                      .a_step = LANES,
                      .b = rows + keys.from * t->width,
                      .b_row = t->width,
                      .c = to + n * t->width,
                      .c_row = t->width,
                      .M = ie_min_i64(step, t->N - n),
                      .N = t->width,
                      .K = keys.to - keys.from,
                      .keep = keep ? keep + n : NULL};
    if (keep)
      product_keep(&p);
    else
      product_add(&p);
  }
}

/* --- Softmax ------------------------------------------------------------------------------------------------------- */

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
  part keys = keys_of(t, patch_floor(lane), all);
  for (int64_t s = keys.from; s < keys.to; s++) {
    vf x = vf_load(p + s * LANES + lane);
    most = vf_max(most, all ? x : seen(t, s, lane, x, least));
  }
  for (int64_t s = keys.from; s < keys.to; s++) {
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
  queries_add(t, sums->acc, p, t->v, keep);
}

/* Logits become weights, gradients of weights those of logits: dS = P (dP - delta). */
INLINE void lanes_flow(const ie_attend_tile *t, const ie_attend_tile_grads *g, float *p, float *ds,
                       int64_t lane, bool all) {
  const vf zero = vf_set1(0.0f);
  vf lse = vf_load(g->lse + lane), delta = vf_load(g->delta + lane);
  part keys = keys_of(t, patch_floor(lane), all);
  for (int64_t s = keys.from; s < keys.to; s++) {
    int64_t at = s * LANES + lane;
    vf x = weight_exp(vf_sub(vf_load(p + at), lse)), flow = vf_mul(x, vf_sub(vf_load(ds + at), delta));
    vf_store(p + at, all ? x : seen(t, s, lane, x, zero));
    vf_store(ds + at, all ? flow : seen(t, s, lane, flow, zero));
  }
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
  queries_add(t, g->dq, ds, t->k, /*keep=*/NULL);
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
