/* The body of attention for vector instruction sets; a file includes simd.h of its folder first.
 *
 * For each tile of keys: keys are converted to f32 and transposed (a vector is one column of VF_LANES keys), values
 * are converted; then rows go in blocks of four: logits, softmax, weighted sum of values. The tile is converted
 * once for all rows, so prefill is bound by fused multiply-adds; for the 8 rows of a decode step conversion costs a
 * quarter of them. Order of every sum: a dot product runs over d, a weighted sum over s, each in one chain a lane,
 * so the blocking changes no bit. */
#ifndef CLOCHER_KERNELS_ATTEND_BODY_H
#define CLOCHER_KERNELS_ATTEND_BODY_H

#include "base/size.h"
#include "kernels/attend.h"
#include "kernels/weight_exp.h"

#include <math.h>
#include <string.h>

#ifdef KERNEL /* nothing without the vocabulary */

enum {
  TILE = IE_ATTEND_TILE,
  GROUPS = TILE / VF_LANES, /* vectors of keys in a tile */
  ROWS = 4,                 /* rows of a block */
  VECS = VF_LANES / 4,      /* vectors of a block: 4 x 4 sums fit 32 registers, 4 x 2 fit 16 */
  D_MAX = 256               /* longer heads take the scalar definition; no published model has them */
};

/* The next tile is asked for while this one is computed, a few cache lines in each round of the inner loops: all at
 * once would stop at the 16 lines that a core can wait for. Keys first, then values. */
typedef struct attend_ahead {
  const char *row, *values; /* row that is asked for now; first row of the values */
  int64_t offset, bytes;    /* next byte of that row; bytes of a row */
  int64_t step;             /* bytes from row to row */
  int64_t left, left_then;  /* rows of this kind, and of values after them */
  int64_t lines;            /* cache lines a round */
} attend_ahead;

typedef struct attend_scratch {
  _Alignas(64) float k[D_MAX * TILE]; /* (D, TILE) */
  _Alignas(64) float v[TILE * D_MAX]; /* (TILE, Dv), Dv = D rounded up to vectors */
  _Alignas(64) float p[ROWS * TILE];  /* logits, then weights, of a block of rows */
  float scale[D_MAX];                 /* of the channels of int8 keys */
  _Alignas(
      64) char rows[VF_LANES * D_MAX * sizeof(float)]; /* keys that cannot be transposed where they lie */
  attend_ahead ahead;
} attend_scratch;

/* A tile of keys that some row sees. */
typedef struct attend_tile {
  int64_t s0;         /* first key, a multiple of TILE */
  int64_t begin, end; /* keys that any row sees, relative to s0 */
  int64_t Dv;
} attend_tile;

/* Bytes of one number. */
INLINE int64_t dtype_size(ie_dtype dtype) {
  return dtype == IE_F32 ? 4 : dtype == IE_I8 ? 1 : 2;
}

INLINE vf load_part(const void *x, ie_dtype dtype, int64_t at, int64_t n) {
  if (dtype == IE_I8) return vf_load_i8_n((const int8_t *)x + at, n);
  if (dtype == IE_F32) return vf_load_n((const float *)x + at, n);
  if (dtype == IE_F16) return vf_load_f16_n((const uint16_t *)x + at, n);
  return vf_load_bf16_n((const uint16_t *)x + at, n);
}

INLINE vf load_full(const void *x, ie_dtype dtype, int64_t at) {
  if (dtype == IE_I8) return vf_load_i8((const int8_t *)x + at);
  if (dtype == IE_F32) return vf_load((const float *)x + at);
  if (dtype == IE_F16) return vf_load_f16((const uint16_t *)x + at);
  return vf_load_bf16((const uint16_t *)x + at);
}

INLINE const char *row_address(const ie_attend_args *args, const void *x, int64_t s) {
  return (const char *)x + s * args->kv_stride * dtype_size(args->kv_dtype);
}

INLINE void ahead_round(attend_ahead *ahead) {
  for (int64_t i = 0; i < ahead->lines; i++) {
    _mm_prefetch(ahead->row + ahead->offset, _MM_HINT_T0);
    ahead->offset += 64;
    if (ahead->offset < ahead->bytes) continue;
    ahead->offset = 0;
    ahead->row += ahead->step;
    if (--ahead->left > 0) continue;
    ahead->row = ahead->values;
    ahead->left = ahead->left_then;
    if (ahead->left == 0) ahead->lines = 0;
    ahead->left_then = 0;
  }
}

/* `rows` rows from key s on, spread over the rounds of one tile. */
static attend_ahead ahead_start(const ie_attend_args *args, int64_t s, int64_t rows) {
  int64_t size = dtype_size(args->kv_dtype);
  attend_ahead ahead = {
      .bytes = args->D * size, .step = args->kv_stride * size, .left = rows, .left_then = rows};
  if (rows <= 0) return ahead;
  ahead.row = row_address(args, args->k, s);
  ahead.values = row_address(args, args->v, s);
  int64_t rounds = ie_div_up(args->N, ROWS) * (args->D + TILE);
  ahead.lines = ie_div_up(2 * rows * ie_div_up(ahead.bytes, 64), rounds);
  return ahead;
}

/* VF_LANES rows of `units` times 16 bytes, `step` bytes apart, become columns of the tile. Numbers of 16 bits
 * travel in pairs, which halves the shuffles, bytes in fours; `scale` is that of their channels. */
INLINE void keys_transpose(const char *rows, int64_t step, int64_t units, float *out, ie_dtype dtype,
                           const float *scale) {
  for (int64_t u = 0; u < units; u++) {
    vf r[4];
    UNROLL for (int j = 0; j < 4; j++) r[j] = vf_load_quads(rows + 16 * u + j * step, 4 * step);
    vf_transpose_quads(r);
    UNROLL for (int j = 0; j < 4; j++) {
      if (dtype == IE_F32) {
        vf_store(out + (4 * u + j) * TILE, r[j]);
      } else if (dtype == IE_I8) {
        UNROLL for (int b = 0; b < 4; b++) {
          int64_t d = 16 * u + 4 * j + b;
          vf_store(out + d * TILE, vf_mul(vf_byte(r[j], b), vf_set1(scale[d])));
        }
      } else {
        vf_store(out + (8 * u + 2 * j) * TILE, dtype == IE_F16 ? vf_low_f16(r[j]) : vf_low_bf16(r[j]));
        vf_store(out + (8 * u + 2 * j + 1) * TILE, dtype == IE_F16 ? vf_high_f16(r[j]) : vf_high_bf16(r[j]));
      }
    }
  }
}

/* Keys first to first + VF_LANES - 1 of the run; those beyond its end are zero. */
INLINE void keys_load(const ie_attend_args *args, int64_t first, attend_scratch *scratch, float *out,
                      ie_dtype dtype) {
  int64_t size = dtype_size(dtype), units = ie_div_up(args->D * size, 16);
  int64_t count = ie_min_i64(VF_LANES, args->S - first);
  if (count == VF_LANES && args->D * size % 16 == 0) {
    keys_transpose(row_address(args, args->k, first), args->kv_stride * size, units, out, dtype,
                   scratch->scale);
    return;
  }
  memset(scratch->rows, 0, (size_t)(VF_LANES * units * 16));
  for (int64_t i = 0; i < count; i++)
    memcpy(scratch->rows + i * units * 16, row_address(args, args->k, first + i), (size_t)(args->D * size));
  keys_transpose(scratch->rows, units * 16, units, out, dtype, scratch->scale);
}

/* The channel scales of the tile's keys; those beyond D multiply zeros. */
static void scales_load(const ie_attend_args *args, const attend_tile *tile, attend_scratch *scratch) {
  const uint16_t *from = args->k_scale + tile->s0 / TILE * args->D;
  int64_t d = 0;
  for (; d < args->D; d++) scratch->scale[d] = ie_bf16_to_f32(from[d]);
  for (; d % 16 != 0; d++) scratch->scale[d] = 0.0f;
}

INLINE vf value_scaled(vf value, vf scale, ie_dtype dtype) {
  return dtype == IE_I8 ? vf_mul(value, scale) : value;
}

INLINE void tile_load_as(const ie_attend_args *args, const attend_tile *tile, attend_scratch *scratch,
                         ie_dtype dtype) {
  int64_t D = args->D, g1 = ie_div_up(tile->end, VF_LANES);
  if (dtype == IE_I8) scales_load(args, tile, scratch);
  for (int64_t g = tile->begin / VF_LANES; g < g1; g++)
    keys_load(args, tile->s0 + g * VF_LANES, scratch, scratch->k + g * VF_LANES, dtype);
  for (int64_t s = tile->begin; s < tile->end; s++) {
    int64_t at = (tile->s0 + s) * args->kv_stride, d = 0;
    float *out = scratch->v + s * tile->Dv;
    vf scale = vf_set1(dtype == IE_I8 ? ie_bf16_to_f32(args->v_scale[tile->s0 + s]) : 1.0f);
    for (; d + VF_LANES <= D; d += VF_LANES)
      vf_store(out + d, value_scaled(load_full(args->v, dtype, at + d), scale, dtype));
    if (d < D) vf_store(out + d, value_scaled(load_part(args->v, dtype, at + d, D - d), scale, dtype));
  }
}

static void tile_load(const ie_attend_args *args, const attend_tile *tile, attend_scratch *scratch) {
  if (args->kv_dtype == IE_F32)
    tile_load_as(args, tile, scratch, IE_F32);
  else if (args->kv_dtype == IE_F16)
    tile_load_as(args, tile, scratch, IE_F16);
  else if (args->kv_dtype == IE_I8)
    tile_load_as(args, tile, scratch, IE_I8);
  else
    tile_load_as(args, tile, scratch, IE_BF16);
}

/* p[r, s] = scale * q[r] . k[s] for `rows` rows and `vecs` vectors of keys from s on. */
INLINE void logits_block(const ie_attend_args *args, attend_ahead *ahead, const float *q, const float *k,
                         float *p, int rows, int vecs) {
  vf sum[ROWS][VECS];
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int c = 0; c < vecs; c++) sum[r][c] = vf_set1(0.0f);
  for (int64_t d = 0; d < args->D; d++) {
    ahead_round(ahead);
    vf key[VECS];
    UNROLL for (int c = 0; c < vecs; c++) key[c] = vf_load(k + d * TILE + c * VF_LANES);
    UNROLL for (int r = 0; r < rows; r++) {
      vf x = vf_set1(q[r * args->q_stride + d]);
      UNROLL for (int c = 0; c < vecs; c++) sum[r][c] = vf_fma(x, key[c], sum[r][c]);
    }
  }
  vf scale = vf_set1(args->scale);
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int c = 0; c < vecs; c++)
      vf_store(p + r * TILE + c * VF_LANES, vf_mul(sum[r][c], scale));
}

static void logits_rows4(const ie_attend_args *args, attend_ahead *ahead, const float *q, const float *k,
                         float *p) {
  logits_block(args, ahead, q, k, p, /*rows=*/4, VECS);
}
static void logits_rows4_one(const ie_attend_args *args, attend_ahead *ahead, const float *q, const float *k,
                             float *p) {
  logits_block(args, ahead, q, k, p, /*rows=*/4, /*vecs=*/1);
}
static void logits_rows1(const ie_attend_args *args, attend_ahead *ahead, const float *q, const float *k,
                         float *p) {
  logits_block(args, ahead, q, k, p, /*rows=*/1, VECS);
}
static void logits_rows1_one(const ie_attend_args *args, attend_ahead *ahead, const float *q, const float *k,
                             float *p) {
  logits_block(args, ahead, q, k, p, /*rows=*/1, /*vecs=*/1);
}

/* Logits of rows n to n + count - 1 and the tile's vectors [g0, g1). */
static void rows_logits(const ie_attend_args *args, attend_scratch *scratch, int64_t n, int64_t count,
                        int64_t g0, int64_t g1) {
  for (int64_t g = g0; g < g1;) {
    int64_t s = g * VF_LANES;
    bool many = g1 - g >= VECS;
    if (count == ROWS) {
      const float *q = args->q + n * args->q_stride;
      (many ? logits_rows4 : logits_rows4_one)(args, &scratch->ahead, q, scratch->k + s, scratch->p + s);
    } else {
      for (int64_t r = 0; r < count; r++)
        (many ? logits_rows1 : logits_rows1_one)(args, &scratch->ahead, args->q + (n + r) * args->q_stride,
                                                 scratch->k + s, scratch->p + r * TILE + s);
    }
    g += many ? VECS : 1;
  }
}

/* Keys of the rows of a block, relative to the tile. */
typedef struct row_range {
  int64_t begin, end;
} row_range;

/* The largest logit of one row. Lanes that the row does not see become -inf on the way. */
INLINE float row_largest(float *p, row_range keys, bool whole) {
  const vf least = vf_set1(-INFINITY);
  vf most = least;
  if (whole) {
    UNROLL for (int g = 0; g < GROUPS; g++) most = vf_max(most, vf_load(p + g * VF_LANES));
    return vf_max_lane(most);
  }
  int64_t g1 = ie_div_up(keys.end, VF_LANES);
  for (int64_t g = keys.begin / VF_LANES; g < g1; g++) {
    vf x = vf_load(p + g * VF_LANES);
    x = vf_select_range(x, least, keys.begin - g * VF_LANES, keys.end - g * VF_LANES);
    vf_store(p + g * VF_LANES, x);
    most = vf_max(most, x);
  }
  return vf_max_lane(most);
}

/* Logits to weights; their sum. */
INLINE float row_weights(float *p, row_range keys, float largest, bool whole) {
  vf sum = vf_set1(0.0f), shift = vf_set1(largest);
  int64_t g0 = whole ? 0 : keys.begin / VF_LANES, g1 = whole ? GROUPS : ie_div_up(keys.end, VF_LANES);
  for (int64_t g = g0; g < g1; g++) {
    vf weight = weight_exp(vf_sub(vf_load(p + g * VF_LANES), shift));
    sum = vf_add(sum, weight);
    vf_store(p + g * VF_LANES, weight);
  }
  return vf_sum(sum);
}

/* Softmax of `count` rows from row n on: logits in p become weights, m and l move on, keep[r] is the factor for
 * what was summed before. Rows without keys (begin >= end) are left alone. */
static void rows_softmax(const ie_attend_args *args, float *p, int64_t n, int64_t count,
                         const row_range *keys, float *keep) {
  float largest[VF_LANES] = {0}, change[VF_LANES] = {0};
  for (int64_t r = 0; r < count; r++) {
    if (keys[r].begin >= keys[r].end) continue;
    bool whole = keys[r].begin == 0 && keys[r].end == TILE;
    float most = whole ? row_largest(p + r * TILE, keys[r], true) : row_largest(p + r * TILE, keys[r], false);
    largest[r] = most > args->m[n + r] ? most : args->m[n + r];
    change[r] = args->m[n + r] - largest[r];
  }
  float factor[VF_LANES];
  vf_store(factor, weight_exp(vf_load(change)));
  for (int64_t r = 0; r < count; r++) {
    if (keys[r].begin >= keys[r].end) continue;
    bool whole = keys[r].begin == 0 && keys[r].end == TILE;
    float sum = whole ? row_weights(p + r * TILE, keys[r], largest[r], true)
                      : row_weights(p + r * TILE, keys[r], largest[r], false);
    args->m[n + r] = largest[r];
    args->l[n + r] = args->l[n + r] * factor[r] + sum;
    keep[r] = factor[r];
  }
}

typedef struct values_job {
  const float *v, *p; /* values of the tile (TILE, Dv), weights of the rows (ROWS, TILE) */
  const float *keep;  /* (rows) */
  float *acc;         /* (rows, D) */
  int64_t D, Dv;
  int64_t begin, end; /* keys of all the rows */
  attend_ahead *ahead;
} values_job;

/* acc[r, e] = keep[r] acc[r, e] + sum_s p[r, s] v[s, e] for `vecs` vectors of e from d on; `tail` lanes in the last. */
INLINE void values_block(const values_job *job, int64_t d, int64_t tail, int rows, int vecs) {
  vf sum[ROWS][VECS];
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int c = 0; c < vecs; c++) sum[r][c] = vf_set1(0.0f);
  for (int64_t s = job->begin; s < job->end; s++) {
    ahead_round(job->ahead);
    vf value[VECS];
    UNROLL for (int c = 0; c < vecs; c++) value[c] = vf_load(job->v + s * job->Dv + d + c * VF_LANES);
    UNROLL for (int r = 0; r < rows; r++) {
      vf x = vf_set1(job->p[r * TILE + s]);
      UNROLL for (int c = 0; c < vecs; c++) sum[r][c] = vf_fma(x, value[c], sum[r][c]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++) {
    UNROLL for (int c = 0; c < vecs; c++) {
      float *to = job->acc + r * job->D + d + c * VF_LANES;
      int64_t n = c == vecs - 1 ? tail : VF_LANES;
      vf_store_n(to, vf_add(vf_mul(vf_load_n(to, n), vf_set1(job->keep[r])), sum[r][c]), n);
    }
  }
}

static void values_rows4(const values_job *job, int64_t d, int64_t tail) {
  values_block(job, d, tail, 4, VECS);
}
static void values_rows4_one(const values_job *job, int64_t d, int64_t tail) {
  values_block(job, d, tail, 4, 1);
}
static void values_rows1(const values_job *job, int64_t d, int64_t tail) {
  values_block(job, d, tail, 1, VECS);
}
static void values_rows1_one(const values_job *job, int64_t d, int64_t tail) {
  values_block(job, d, tail, 1, 1);
}

static void rows_values(const values_job *job, int64_t rows) {
  for (int64_t d = 0; d < job->D;) {
    bool many = job->Dv - d >= VECS * VF_LANES;
    int64_t width = many ? VECS * VF_LANES : VF_LANES;
    int64_t tail = VF_LANES - ie_max_i64(0, d + width - job->D);
    if (rows == ROWS)
      (many ? values_rows4 : values_rows4_one)(job, d, tail);
    else
      (many ? values_rows1 : values_rows1_one)(job, d, tail);
    d += width;
  }
}

/* Rows n to n + count - 1, count <= ROWS, over one tile. */
static void rows_attend(const ie_attend_args *args, const attend_tile *tile, attend_scratch *scratch,
                        int64_t n, int64_t count) {
  row_range keys[ROWS], any = {TILE, 0};
  bool alike = count == ROWS; /* all rows see the same keys */
  for (int64_t r = 0; r < count; r++) {
    keys[r].begin = ie_max_i64(0, args->lo[n + r] - tile->s0);
    keys[r].end = ie_min_i64(TILE, args->hi[n + r] - tile->s0);
    alike = alike && keys[r].begin == keys[0].begin && keys[r].end == keys[0].end;
    if (keys[r].begin >= keys[r].end) continue;
    any.begin = ie_min_i64(any.begin, keys[r].begin);
    any.end = ie_max_i64(any.end, keys[r].end);
  }
  if (any.begin >= any.end) return;
  float keep[ROWS];
  rows_logits(args, scratch, n, count, any.begin / VF_LANES, ie_div_up(any.end, VF_LANES));
  rows_softmax(args, scratch->p, n, count, keys, keep);
  values_job job = {.v = scratch->v, .D = args->D, .Dv = tile->Dv, .ahead = &scratch->ahead};
  int64_t step = alike ? ROWS : 1;
  for (int64_t r = 0; r < count; r += step) {
    if (keys[r].begin >= keys[r].end) continue;
    job.p = scratch->p + r * TILE;
    job.keep = keep + r;
    job.acc = args->acc + (n + r) * args->D;
    job.begin = keys[r].begin, job.end = keys[r].end;
    rows_values(&job, step);
  }
}

#include "kernels/attend_eight.h"

#ifdef ATTEND_INTEGERS
#include ATTEND_INTEGERS
#else
static bool integers_tile(const ie_attend_args *args, int64_t s0, int64_t then, eight_scratch *eight) {
  (void)args, (void)s0, (void)then, (void)eight;
  return false;
}
#endif

/* The keys of [s0, s0 + TILE) that any row sees; begin >= end: none. */
static attend_tile tile_range(const ie_attend_args *args, int64_t s0) {
  attend_tile tile = {.s0 = s0, .begin = TILE, .end = 0, .Dv = ie_div_up(args->D, VF_LANES) * VF_LANES};
  for (int64_t n = 0; n < args->N; n++) {
    int64_t begin = ie_max_i64(0, args->lo[n] - s0), end = ie_min_i64(TILE, args->hi[n] - s0);
    if (begin >= end) continue;
    tile.begin = ie_min_i64(tile.begin, begin);
    tile.end = ie_max_i64(tile.end, end);
  }
  return tile;
}

void KERNEL(ie_attend)(const ie_attend_args *args) {
  if (args->D > D_MAX) {
    ie_attend__scalar(args);
    return;
  }
  int64_t first = INT64_MAX, last = 0; /* of the keys that any row sees */
  for (int64_t n = 0; n < args->N; n++) {
    if (args->lo[n] >= args->hi[n]) continue;
    first = ie_min_i64(first, args->lo[n]);
    last = ie_max_i64(last, args->hi[n]);
  }
  if (first >= last) return;
  attend_scratch scratch;
  eight_scratch eight;
  bool eight_rows = eight_suits(args), integers = args->integers && args->kv_dtype == IE_I8;
  if (eight_rows) eight_queries(args, &eight);
  for (int64_t s0 = first - first % TILE; s0 < last; s0 += TILE) {
    attend_tile tile = tile_range(args, s0);
    if (tile.begin >= tile.end) continue;
    if (eight_rows && eight_see_all(args, s0)) {
      int64_t then = s0 + TILE < last ? s0 + TILE : s0;
      if (!integers || !integers_tile(args, s0, then, &eight)) eight_tile(args, s0, then, &eight, scratch.k);
      continue;
    }
    tile_load(args, &tile, &scratch);
    scratch.ahead = ahead_start(args, s0 + TILE, ie_min_i64(TILE, last - s0 - TILE));
    for (int64_t n = 0; n < args->N; n += ROWS)
      rows_attend(args, &tile, &scratch, n, ie_min_i64(ROWS, args->N - n));
  }
}

#endif
#endif
