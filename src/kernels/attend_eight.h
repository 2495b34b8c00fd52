/* Attention of exactly eight rows that all see a whole tile: one token of a model with eight query heads a KV head,
 * the case that decoding at depth waits for. Included by attend_body.h alone.
 *
 * The general body transposes a tile of keys, which costs as much as half of the multiply-adds of eight rows. Here a
 * lane is a row (times KEYS neighbouring keys: 2 in a vector of 16), the queries are transposed once a call, and a
 * key's number is broadcast from where it lies. So the softmax needs no sums across lanes either. Sums are those of
 * the general body in its order (a dot product over d, weights as in vf_sum, values over s, each chain from 0), so it
 * changes no bit. */
#ifndef CLOCHER_KERNELS_ATTEND_EIGHT_H
#define CLOCHER_KERNELS_ATTEND_EIGHT_H

#include "kernels/attend.h"

#ifdef CLOCHER_KERNELS_ATTEND_BODY_H /* nothing without the body */

enum {
  EIGHT = 8,
  KEYS = VF_LANES / EIGHT,   /* keys of a vector */
  SETS = TILE / KEYS,        /* vectors of logits in a tile */
  PARTIAL = VF_LANES / KEYS, /* vectors of the VF_LANES partial sums of each row */
  CHAINS = VF_LANES,         /* vectors of logits at a time, 16 registers of 32 or 8 of 16 */
  VALUE_ROWS = VF_LANES / 2, /* rows of values at a time, and vectors of each */
  VALUE_VECS = 2,
  /* The next tile is asked for while this one is computed, evenly: all at once would stop at the lines that a core can
   * wait for. Numbers (of 2 or 4 bytes) a step, from a tile's TILE D numbers and the steps over it; rows of a cache
   * follow each other without gaps. Into the second cache: the first one is full of this tile. */
  ASK_LOGITS = 4 * TILE * CHAINS / SETS,
  ASK_VALUES = TILE * VALUE_VECS * VF_LANES * VALUE_ROWS / (SETS * EIGHT)
};

typedef struct eight_scratch {
  _Alignas(64) float q[D_MAX * VF_LANES]; /* (D, EIGHT, KEYS): the same for all KEYS */
  _Alignas(64) float p[SETS * VF_LANES];  /* (SETS, EIGHT, KEYS): logits, then weights */
  _Alignas(64) float k_scale[D_MAX];      /* of the tile's int8 keys, (D), and values, (TILE) */
  _Alignas(64) float v_scale[TILE];
} eight_scratch;

/* Head dimensions are constants here: with a variable one the addresses of CHAINS keys do not fit the registers. */
static bool eight_suits(const ie_attend_args *args) {
  return args->N == EIGHT && (args->D == 64 || args->D == 128);
}

static bool eight_see_all(const ie_attend_args *args, int64_t s0) {
  bool all = true;
  for (int64_t n = 0; n < EIGHT; n++) all = all && args->lo[n] <= s0 && args->hi[n] >= s0 + TILE;
  return all;
}

/* The next tile's lines in four streams, as the read probe reads: halves of its keys and of its values, in turn
 * (docs/speed-notes/decode.md has what one stream after the other makes). */
typedef struct eight_ahead {
  const char *k, *v;
  int64_t half; /* bytes of a stream */
  int64_t line; /* asked for next */
} eight_ahead;

INLINE void eight_ask(eight_ahead *ahead) {
  int64_t n = ahead->line++;
  _mm_prefetch((n & 2 ? ahead->v : ahead->k) + (n & 1) * ahead->half + n / 4 * 64, _MM_HINT_T1);
}

static void eight_queries(const ie_attend_args *args, eight_scratch *eight) {
  for (int64_t d = 0; d < args->D; d++)
    for (int64_t i = 0; i < VF_LANES; i++)
      eight->q[d * VF_LANES + i] = args->q[i / KEYS * args->q_stride + d];
}

INLINE void eight_scales(const ie_attend_args *args, int64_t s0, eight_scratch *eight, int64_t D) {
  for (int64_t d = 0; d < D; d += VF_LANES)
    vf_store(eight->k_scale + d, vf_load_bf16(args->k_scale + s0 / TILE * D + d));
  for (int64_t s = 0; s < TILE; s += VF_LANES)
    vf_store(eight->v_scale + s, vf_load_bf16(args->v_scale + s0 + s));
}

/* Keys in f32, the numbers of KEYS neighbours side by side: (SETS, D, KEYS), the d of 16 as vf_store_pairs has them. */
INLINE void eight_keys(const ie_attend_args *args, int64_t s0, float *out, const eight_scratch *eight,
                       ie_dtype dtype, int64_t D) {
  int64_t step = args->kv_stride;
  const void *k = args->k;
  for (int64_t s = s0; s < s0 + TILE; s += KEYS) {
    UNROLL for (int64_t d = 0; d < D; d += VF_LANES, out += KEYS * VF_LANES) {
      vf scale = dtype == IE_I8 ? vf_load(eight->k_scale + d) : vf_set1(1.0f);
      vf key = value_scaled(load_full(k, dtype, s * step + d), scale, dtype);
      if (KEYS == 1)
        vf_store(out, key);
      else
        vf_store_pairs(out, key, value_scaled(load_full(k, dtype, (s + 1) * step + d), scale, dtype));
    }
  }
}

/* Logits of CHAINS vectors of keys. */
INLINE void eight_logits(const ie_attend_args *args, const float *q, const float *keys, eight_ahead *ahead,
                         float *p, int64_t D, int64_t size) {
  static const int offset[2][4] = {{0, 1, 2, 3}, {0, 2, VF_LANES, VF_LANES + 2}}; /* of vf_store_pairs */
  vf sum[CHAINS];
  UNROLL for (int c = 0; c < CHAINS; c++) sum[c] = vf_set1(0.0f);
  int64_t step = D * KEYS;
  eight_ahead next = *ahead;
  for (int64_t d = 0; d < D; d += 4) {
    const float *four = keys + (KEYS == 1 ? d : 2 * (d - d % VF_LANES) + d % VF_LANES);
    UNROLL for (int e = 0; e < 4; e++) {
      if (e * 64 < ASK_LOGITS * size) eight_ask(&next);
      vf x = vf_load(q + (d + e) * VF_LANES);
      UNROLL for (int c = 0; c < CHAINS; c++) sum[c] =
          vf_fma(x, vf_load_eighth(four + offset[KEYS - 1][e] + c * step), sum[c]);
    }
  }
  *ahead = next;
  vf scale = vf_set1(args->scale);
  UNROLL for (int c = 0; c < CHAINS; c++) vf_store(p + c * VF_LANES, vf_mul(sum[c], scale));
}

/* Sums of the weights. Partial sum i of a row takes keys i, i + VF_LANES, ...; then the partial sums are added as
 * vf_sum adds its lanes: halves first. */
static vf eight_weights(float *p, vf largest) {
  vf part[PARTIAL];
  UNROLL for (int i = 0; i < PARTIAL; i++) part[i] = vf_set1(0.0f);
  for (int64_t j = 0; j < SETS; j += PARTIAL) {
    UNROLL for (int i = 0; i < PARTIAL; i++) {
      vf weight = weight_exp(vf_sub(vf_load(p + (j + i) * VF_LANES), largest));
      part[i] = vf_add(part[i], weight);
      vf_store(p + (j + i) * VF_LANES, weight);
    }
  }
  UNROLL for (int half = PARTIAL / 2; half > 0; half /= 2) UNROLL for (int i = 0; i < half; i++) part[i] =
      vf_add(part[i], part[i + half]);
  return KEYS == 1 ? part[0] : vf_add(part[0], vf_swap_neighbours(part[0]));
}

/* Logits of a tile become weights; m and l move on; keep (EIGHT) is the factor for what was summed before. */
static void eight_softmax(const ie_attend_args *args, float *p, float *keep) {
  vf most = vf_load(p), before = vf_load_rows(args->m);
  for (int64_t j = 1; j < SETS; j++) most = vf_max(most, vf_load(p + j * VF_LANES));
  if (KEYS > 1) most = vf_max(most, vf_swap_neighbours(most));
  most = vf_max(most, before);
  vf factor = weight_exp(vf_sub(before, most)), sum = eight_weights(p, most);
  vf_store_rows(args->m, most);
  vf_store_rows(args->l, vf_add(vf_mul(vf_load_rows(args->l), factor), sum));
  vf_store_rows(keep, factor);
}

typedef struct eight_place {
  int64_t s0, n, d; /* first key, row and number of a block of values */
} eight_place;

/* acc = keep acc + sum_s p[s] v[s] for VALUE_ROWS rows from n on and VALUE_VECS vectors from d on. */
INLINE void eight_values(const ie_attend_args *args, const eight_scratch *eight, eight_ahead *ahead,
                         const float *keep, eight_place at, ie_dtype dtype, int64_t D) {
  vf sum[VALUE_ROWS][VALUE_VECS];
  UNROLL for (int r = 0; r < VALUE_ROWS; r++) UNROLL for (int c = 0; c < VALUE_VECS; c++) sum[r][c] =
      vf_set1(0.0f);
  int64_t size = dtype_size(dtype), step = args->kv_stride;
  eight_ahead next = *ahead;
  const char *v = row_address(args, args->v, at.s0) + at.d * size;
  const float *p = eight->p + at.n * KEYS;
  for (int64_t j = 0; j < SETS; j++, p += VF_LANES, v += KEYS * step * size) {
    UNROLL for (int h = 0; h < KEYS; h++) {
      if (h * 64 < ASK_VALUES * size) eight_ask(&next);
      vf value[VALUE_VECS];
      vf scale = vf_set1(dtype == IE_I8 ? eight->v_scale[j * KEYS + h] : 1.0f);
      UNROLL for (int c = 0; c < VALUE_VECS; c++) value[c] =
          value_scaled(load_full(v, dtype, h * step + c * VF_LANES), scale, dtype);
      UNROLL for (int r = 0; r < VALUE_ROWS; r++) {
        vf x = vf_set1(p[r * KEYS + h]);
        UNROLL for (int c = 0; c < VALUE_VECS; c++) sum[r][c] = vf_fma(x, value[c], sum[r][c]);
      }
    }
  }
  *ahead = next;
  UNROLL for (int r = 0; r < VALUE_ROWS; r++) {
    UNROLL for (int c = 0; c < VALUE_VECS; c++) {
      float *to = args->acc + (at.n + r) * D + at.d + c * VF_LANES;
      vf_store(to, vf_add(vf_mul(vf_load(to), vf_set1(keep[at.n + r])), sum[r][c]));
    }
  }
}

/* One tile. The one at `then` is asked for meanwhile. */
INLINE void eight_tile_as(const ie_attend_args *args, int64_t s0, int64_t then, eight_scratch *eight,
                          float *keys, ie_dtype dtype, int64_t D) {
  float keep[EIGHT];
  eight_ahead next = {.k = row_address(args, args->k, then),
                      .v = row_address(args, args->v, then),
                      .half = TILE * D * dtype_size(dtype) / 2};
  if (dtype == IE_I8) eight_scales(args, s0, eight, D);
  eight_keys(args, s0, keys, eight, dtype, D);
  for (int64_t j = 0; j < SETS; j += CHAINS)
    eight_logits(args, eight->q, keys + j * KEYS * D, &next, eight->p + j * VF_LANES, D, dtype_size(dtype));
  eight_softmax(args, eight->p, keep);
  for (int64_t n = 0; n < EIGHT; n += VALUE_ROWS)
    for (int64_t d = 0; d < D; d += VALUE_VECS * VF_LANES)
      eight_values(args, eight, &next, keep, (eight_place){s0, n, d}, dtype, D);
}

INLINE void eight_tile_of(const ie_attend_args *args, int64_t s0, int64_t then, eight_scratch *eight,
                          float *keys, ie_dtype dtype) {
  if (args->D == 64)
    eight_tile_as(args, s0, then, eight, keys, dtype, /*D=*/64);
  else
    eight_tile_as(args, s0, then, eight, keys, dtype, /*D=*/128);
}

static void eight_tile(const ie_attend_args *args, int64_t s0, int64_t then, eight_scratch *eight,
                       float *keys) {
  if (args->kv_dtype == IE_F32)
    eight_tile_of(args, s0, then, eight, keys, IE_F32);
  else if (args->kv_dtype == IE_F16)
    eight_tile_of(args, s0, then, eight, keys, IE_F16);
  else if (args->kv_dtype == IE_I8)
    eight_tile_of(args, s0, then, eight, keys, IE_I8);
  else
    eight_tile_of(args, s0, then, eight, keys, IE_BF16);
}

#endif
#endif
