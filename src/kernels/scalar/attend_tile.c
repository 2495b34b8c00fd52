/* Attention under a tape, one tile: the definition. */
#include "kernels/attend_tile.h"

#include "base/real.h"

#include <string.h>

enum { LANES = IE_ATTEND_QUERIES };

static void attend_pack__scalar(real *rows, real *columns, const real *x, int64_t stride, int64_t N,
                                int64_t D, real factor) {
  int64_t width = (D + IE_ATTEND_PAD - 1) / IE_ATTEND_PAD * IE_ATTEND_PAD;
  for (int64_t n = 0; n < LANES; n++) {
    for (int64_t d = 0; d < width; d++) {
      real value = n < N && d < D ? factor * x[n * stride + d] : (real)0;
      rows[n * width + d] = columns[d * LANES + n] = value;
    }
  }
}

static void attend_delta__scalar(real *delta, const real *dy, const real *y, int64_t stride, int64_t N,
                                 int64_t D) {
  for (int64_t n = 0; n < LANES; n++) {
    real sum = 0;
    for (int64_t d = 0; n < N && d < D; d++) sum += dy[n * stride + d] * y[n * stride + d];
    delta[n] = sum;
  }
}

/* x (S, N) = rows (S, D) columns (D, N) */
static void rows_times_columns(real x[IE_ATTEND_KEYS][LANES], const ie_attend_tile *t, const real *rows,
                               const real *columns) {
  for (int64_t s = 0; s < t->S; s++) {
    for (int64_t n = 0; n < t->N; n++) x[s][n] = 0;
    for (int64_t d = 0; d < t->D; d++)
      for (int64_t n = 0; n < t->N; n++) x[s][n] += rows[s * t->width + d] * columns[d * LANES + n];
  }
}

static bool is_seen(const ie_attend_tile *t, int64_t n, int64_t s) {
  return s <= n + t->ahead && s > n + t->ahead - t->window;
}

static void attend_tile__scalar(const ie_attend_tile *t, const ie_attend_sums *sums) {
  real p[IE_ATTEND_KEYS][LANES];
  rows_times_columns(p, t, t->k, t->qt);
  for (int64_t n = 0; n < t->N; n++) {
    real most = sums->m[n], sum = 0, *acc = sums->acc + n * t->width;
    for (int64_t s = 0; s < t->S; s++)
      if (is_seen(t, n, s) && p[s][n] > most) most = p[s][n];
    real keep = real_exp(sums->m[n] - most);
    for (int64_t d = 0; d < t->D; d++) acc[d] *= keep;
    for (int64_t s = 0; s < t->S; s++) {
      if (!is_seen(t, n, s)) continue;
      real weight = real_exp(p[s][n] - most);
      sum += weight;
      for (int64_t d = 0; d < t->D; d++) acc[d] += weight * t->v[s * t->width + d];
    }
    sums->m[n] = most;
    sums->l[n] = sums->l[n] * keep + sum;
  }
}

static void attend_tile_backward__scalar(const ie_attend_tile *t, const ie_attend_tile_grads *g) {
  real p[IE_ATTEND_KEYS][LANES], ds[IE_ATTEND_KEYS][LANES];
  rows_times_columns(p, t, t->k, t->qt);
  rows_times_columns(ds, t, t->v, g->dyt);
  for (int64_t s = 0; s < t->S; s++) {
    for (int64_t n = 0; n < t->N; n++) {
      if (!is_seen(t, n, s)) continue;
      real weight = real_exp(p[s][n] - g->lse[n]), flow = weight * (ds[s][n] - g->delta[n]);
      const real *k = t->k + s * t->width, *q = g->q + n * t->width, *dy = g->dy + n * t->width;
      real *dk = g->dk + s * t->width, *dv = g->dv + s * t->width, *dq = g->dq + n * t->width;
      for (int64_t d = 0; d < t->D; d++) {
        dv[d] += weight * dy[d];
        dk[d] += flow * q[d];
        dq[d] += flow * k[d];
      }
    }
  }
}

void ie_attend_tile_fill__scalar(ie_kernels *out) {
  out->attend_pack = attend_pack__scalar;
  out->attend_delta = attend_delta__scalar;
  out->attend_tile = attend_tile__scalar;
  out->attend_tile_backward = attend_tile_backward__scalar;
}
