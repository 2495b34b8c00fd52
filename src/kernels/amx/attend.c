/* Prefill attention on AMX tiles: both products by TDPBF16PS, softmax in AVX-512 between them, tile by tile of
 * IE_ATTEND_TILE keys as kernels/attend.h says.
 *
 * Precision is that of f32 (the tests hold it to the tolerance of the other kernels): what bf16 does not hold is a sum
 * of bf16 parts. Queries and weights are three parts of eight bits, exactly; keys and values of f16 and int8 two, exactly
 * (11 bits; 7 bits of a code times 8 of its scale), those of bf16 one. Of the products of parts, those below 2^-24 of
 * the largest are left out: five tile products for f16 and int8, three for bf16.
 *
 * 32 rows x 32 keys (or channels) are 2 x 2 tiles. A block of 32 rows skips the 32 keys that none of its rows sees, so
 * a window costs what it shows. Keys, queries and weights lie in pairs of columns i and 16 + i of each 32, as vectors
 * fall into bf16 without a shuffle.
 *
 * What no row sees is not read. A value that is not finite goes in as zero, since zero weights would spread it, and makes
 * the rows that see it NaN. */
#include "kernels/avx512/simd.h"

#include "base/size.h"
#include "kernels/amx/tile.h"
#include "kernels/attend.h"
#include "kernels/avx512/tiles_decode.h"
#include "kernels/avx512/transpose.h"
#include "kernels/weight_exp.h"

enum {
  KEYS = IE_ATTEND_TILE,
  STEP = 32, /* numbers of a sum in one tile product */
  EDGE = 16, /* rows or columns of a tile */
  BLOCK = 2 * EDGE,
  TILE_BYTES = 1024,
  PARTS = 3,       /* of queries and weights */
  OTHER_PARTS = 2, /* of keys and values, at most */
  D_MAX = 256,
  QUERY_BYTES = 192 << 10 /* of packed queries: 256 rows of 128 numbers */
};

typedef struct attend_scratch {
  _Alignas(64) uint8_t q[QUERY_BYTES];                          /* (rows / EDGE, steps, PARTS) tiles */
  _Alignas(64) uint8_t k[KEYS * D_MAX * 2 * OTHER_PARTS];       /* (KEYS / EDGE, steps, parts) tiles */
  _Alignas(64) uint8_t v[KEYS * D_MAX * 2 * OTHER_PARTS];       /* (D / EDGE, KEYS / STEP, parts) tiles */
  _Alignas(64) uint8_t p[2 * KEYS / STEP * PARTS * TILE_BYTES]; /* (2, KEYS / STEP, PARTS) tiles */
  _Alignas(64) float logits[BLOCK * KEYS];
  _Alignas(64) float sums[BLOCK * BLOCK];
  float keep[BLOCK];
} attend_scratch;

/* A tile of keys: those that any row of the call sees, relative to s0. */
typedef struct key_tile {
  int64_t s0, begin, end;
  int64_t steps; /* of the head dimension */
  int parts;     /* of keys and values */
  uint64_t bad;  /* keys whose values are not all finite, a bit each */
} key_tile;

/* --- Parts ------------------------------------------------------------------------------------------------------- */

ALWAYS_INLINE __m512 upper_part(__m512 x) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0xFFFF0000)));
}

/* 16 pairs, part after part `step` bytes apart: each part is the upper eight bits of what the ones before left. */
ALWAYS_INLINE void store_parts(uint8_t *out, size_t step, __m512 x, __m512 y, int parts) {
#pragma GCC unroll 3
  for (int i = 0; i < parts; i++) {
    __m512 a = upper_part(x), b = upper_part(y);
    _mm512_store_si512(out + (size_t)i * step, halves_bf16(_mm512_castps_si512(a), _mm512_castps_si512(b)));
    x = _mm512_sub_ps(x, a);
    y = _mm512_sub_ps(y, b);
  }
}

/* 16 numbers of a row of keys or values from element `at` on, n of them; of int8 the codes. */
ALWAYS_INLINE __m512 load_numbers(const void *x, ie_dtype dtype, int64_t at, int64_t n) {
  __mmask16 mask = mask16_clamped(n);
  if (dtype == IE_I8)
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, (const int8_t *)x + at)));
  __m256i half = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)x + at);
  if (dtype == IE_F16) return _mm512_cvtph_ps(half);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* --- Operands ---------------------------------------------------------------------------------------------------- */

/* Rows n0 .. n0 + rows - 1 of the queries as A, in whole blocks. */
static void queries_pack(const ie_attend_args *args, int64_t n0, int64_t rows, int64_t steps, uint8_t *out) {
  for (int64_t n = 0; n < ie_div_up(rows, BLOCK) * BLOCK; n++)
    for (int64_t s = 0; s < steps; s++) {
      __m512 x[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
      const float *q = args->q + (n0 + n) * args->q_stride + s * STEP;
      for (int h = 0; h < 2 && n < rows; h++)
        x[h] = _mm512_maskz_loadu_ps(mask16_clamped(args->D - s * STEP - EDGE * h), q + EDGE * h);
      store_parts(out + ((n / EDGE * steps + s) * PARTS * TILE_BYTES + n % EDGE * 64), TILE_BYTES, x[0], x[1],
                  PARTS);
    }
}

/* 16 keys from `first` of the tile on, 32 numbers of each, as B; keys that nobody sees are zero. */
ALWAYS_INLINE void keys_pack_step(const ie_attend_args *args, const key_tile *t, int64_t first, int64_t step,
                                  uint8_t *out, ie_dtype dtype) {
  const int parts = dtype == IE_BF16 ? 1 : 2;
  __m512i high[EDGE], low[EDGE];
  __m512 scale[2] = {_mm512_set1_ps(1), _mm512_set1_ps(1)};
  for (int h = 0; h < 2 && dtype == IE_I8; h++) {
    int64_t d = step * STEP + EDGE * h;
    scale[h] = load_numbers(args->k_scale, IE_BF16, t->s0 / KEYS * args->D + d, args->D - d);
  }
  for (int64_t i = 0; i < EDGE; i++) {
    high[i] = low[i] = _mm512_setzero_si512();
    if (first + i < t->begin || first + i >= t->end) continue;
    __m512 x[2], upper[2];
    for (int h = 0; h < 2; h++) {
      int64_t d = step * STEP + EDGE * h;
      x[h] = load_numbers(args->k, dtype, (t->s0 + first + i) * args->kv_stride + d, args->D - d);
      if (dtype == IE_I8) x[h] = _mm512_mul_ps(x[h], scale[h]);
      upper[h] = upper_part(x[h]);
      x[h] = _mm512_sub_ps(x[h], upper[h]);
    }
    high[i] = halves_bf16(_mm512_castps_si512(upper[0]), _mm512_castps_si512(upper[1]));
    low[i] = halves_bf16(_mm512_castps_si512(x[0]), _mm512_castps_si512(x[1]));
  }
  transpose_16x16(high);
  for (int i = 0; i < EDGE; i++) _mm512_store_si512(out + 64 * i, high[i]);
  if (parts == 1) return;
  transpose_16x16(low);
  for (int i = 0; i < EDGE; i++) _mm512_store_si512(out + TILE_BYTES + 64 * i, low[i]);
}

/* Row i of a tile of values: keys i and 16 + i of a step, 16 channels from d on. */
ALWAYS_INLINE void values_pack_row(const ie_attend_args *args, key_tile *t, int64_t key, int64_t d,
                                   uint8_t *out, ie_dtype dtype) {
  __m512 x[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (int h = 0; h < 2; h++) {
    int64_t s = key + EDGE * h;
    if (s < t->begin || s >= t->end) continue;
    x[h] = load_numbers(args->v, dtype, (t->s0 + s) * args->kv_stride + d, args->D - d);
    if (dtype == IE_I8) x[h] = _mm512_mul_ps(x[h], _mm512_set1_ps(ie_bf16_to_f32(args->v_scale[t->s0 + s])));
    __mmask16 finite = _mm512_cmp_ps_mask(_mm512_abs_ps(x[h]), _mm512_set1_ps(INFINITY), _CMP_LT_OQ);
    if (finite != 0xFFFF) t->bad |= (uint64_t)1 << s;
    x[h] = _mm512_maskz_mov_ps(finite, x[h]);
  }
  store_parts(out, TILE_BYTES, x[0], x[1], dtype == IE_BF16 ? 1 : 2);
}

ALWAYS_INLINE void tile_pack_as(const ie_attend_args *args, key_tile *t, attend_scratch *scratch,
                                ie_dtype dtype) {
  const size_t both = (size_t)t->parts * TILE_BYTES; /* of a step */
  for (int64_t s = t->begin / STEP * STEP; s < ie_div_up(t->end, STEP) * STEP; s += EDGE)
    for (int64_t step = 0; step < t->steps; step++)
      keys_pack_step(args, t, s, step, scratch->k + (size_t)(s / EDGE * t->steps + step) * both, dtype);
  for (int64_t d = 0; d < t->steps * STEP; d += EDGE)
    for (int64_t s = t->begin / STEP; s < ie_div_up(t->end, STEP); s++)
      for (int64_t i = 0; i < EDGE; i++)
        values_pack_row(args, t, s * STEP + i, d,
                        scratch->v + (size_t)(d / EDGE * (KEYS / STEP) + s) * both + 64 * i, dtype);
}

static void tile_pack(const ie_attend_args *args, key_tile *t, attend_scratch *scratch) {
  if (args->kv_dtype == IE_F16)
    tile_pack_as(args, t, scratch, IE_F16);
  else if (args->kv_dtype == IE_I8)
    tile_pack_as(args, t, scratch, IE_I8);
  else
    tile_pack_as(args, t, scratch, IE_BF16);
}

/* --- Products ---------------------------------------------------------------------------------------------------- */

/* A (32 rows) in three parts, B (32 columns) in one or two: `steps` of them, tiles in a row; bytes from the first 16
 * rows or columns to the others. */
typedef struct operands {
  const uint8_t *a, *b;
  size_t a_other, b_other;
  int64_t steps;
} operands;

/* All four tiles of a product of parts, of which `a` or `b` may still be loaded. */
#define LOAD_A(part)                                                                                         \
  do {                                                                                                       \
    tile_load(4, a + (part)*TILE_BYTES, 64);                                                                 \
    tile_load(5, a + o->a_other + (part)*TILE_BYTES, 64);                                                    \
  } while (0)
#define LOAD_B(part)                                                                                         \
  do {                                                                                                       \
    tile_load(6, b + (part)*TILE_BYTES, 64);                                                                 \
    tile_load(7, b + o->b_other + (part)*TILE_BYTES, 64);                                                    \
  } while (0)
#define ADD_PRODUCTS()                                                                                       \
  do {                                                                                                       \
    tile_add_products(0, 4, 6);                                                                              \
    tile_add_products(1, 4, 7);                                                                              \
    tile_add_products(2, 5, 6);                                                                              \
    tile_add_products(3, 5, 7);                                                                              \
  } while (0)

/* out (32, 32), `stride` numbers from row to row. */
ALWAYS_INLINE void multiply(float *out, size_t stride, const operands *o, int parts) {
  tile_barrier();
  tile_zero(0);
  tile_zero(1);
  tile_zero(2);
  tile_zero(3);
  for (int64_t s = 0; s < o->steps; s++) {
    const uint8_t *a = o->a + s * PARTS * TILE_BYTES, *b = o->b + s * parts * TILE_BYTES;
    LOAD_A(0);
    LOAD_B(0);
    ADD_PRODUCTS(); /* 1 1 */
    if (parts == 2) {
      LOAD_B(1);
      ADD_PRODUCTS(); /* 1 2 */
      LOAD_A(1);
      ADD_PRODUCTS(); /* 2 2 */
      LOAD_B(0);
    } else {
      LOAD_A(1);
    }
    ADD_PRODUCTS(); /* 2 1 */
    LOAD_A(2);
    ADD_PRODUCTS(); /* 3 1 */
  }
  tile_store(0, out, stride * sizeof(float));
  tile_store(1, out + EDGE, stride * sizeof(float));
  tile_store(2, out + EDGE * stride, stride * sizeof(float));
  tile_store(3, out + EDGE * stride + EDGE, stride * sizeof(float));
}

static void multiply_parts(float *out, size_t stride, const operands *o, int parts) {
  if (parts == 1)
    multiply(out, stride, o, 1);
  else
    multiply(out, stride, o, 2);
}

/* --- A block of rows ---------------------------------------------------------------------------------------------- */

typedef struct key_range {
  int64_t begin, end; /* relative to the tile */
} key_range;

static key_range range_of(const ie_attend_args *args, const key_tile *t, int64_t n) {
  return (key_range){ie_max_i64(0, args->lo[n] - t->s0), ie_min_i64(KEYS, args->hi[n] - t->s0)};
}

/* Logits of one row become weights, in parts, as row r of A; m and l move on; the factor for what was summed before. */
static float row_softmax(const ie_attend_args *args, int64_t n, key_range keys, const float *logits,
                         uint8_t *out) {
  enum { VECS = KEYS / EDGE };
  const __m512 least = _mm512_set1_ps(-INFINITY), scale = _mm512_set1_ps(args->scale);
  __m512 x[VECS];
  __mmask16 seen[VECS];
  float before = args->m[n];
  __m512 most = least;
#pragma GCC unroll 4
  for (int c = 0; c < VECS; c++) {
    seen[c] = (__mmask16)(mask16_clamped(keys.end - EDGE * c) & ~mask16_clamped(keys.begin - EDGE * c));
    x[c] = _mm512_mask_mul_ps(least, seen[c], _mm512_loadu_ps(logits + EDGE * c), scale);
    most = _mm512_max_ps(most, x[c]);
  }
  float largest = _mm512_reduce_max_ps(most); /* a NaN in the logits comes through by its weight */
  if (before > largest) largest = before;
  const __m512 top = _mm512_set1_ps(largest);
  __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 4
  for (int c = 0; c < VECS; c++) {
    x[c] = _mm512_maskz_mov_ps(seen[c], weight_exp(_mm512_sub_ps(x[c], top)));
    sum = _mm512_add_ps(sum, x[c]);
  }
#pragma GCC unroll 2
  for (int s = 0; s < KEYS / STEP; s++)
    store_parts(out + (size_t)s * PARTS * TILE_BYTES, TILE_BYTES, x[2 * s], x[2 * s + 1], PARTS);
  float keep = _mm512_cvtss_f32(weight_exp(_mm512_set1_ps(before - largest)));
  args->m[n] = largest;
  args->l[n] = args->l[n] * keep + _mm512_reduce_add_ps(sum);
  return keep;
}

/* A row that sees nothing in this tile. */
static void row_clear(uint8_t *out) {
  for (int s = 0; s < KEYS / STEP * PARTS; s++)
    _mm512_store_si512(out + (size_t)s * TILE_BYTES, _mm512_setzero_si512());
}

/* acc = keep acc + sums of 32 channels from d on. */
static void rows_add(const ie_attend_args *args, int64_t n, int64_t rows, int64_t d,
                     const attend_scratch *s) {
  for (int64_t r = 0; r < rows; r++) {
    if (s->keep[r] < 0) continue;
    for (int h = 0; h < 2; h++) {
      __mmask16 mask = mask16_clamped(args->D - d - EDGE * h);
      float *to = args->acc + (n + r) * args->D + d + EDGE * h;
      __m512 before = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, to), _mm512_set1_ps(s->keep[r]));
      _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(before, _mm512_load_ps(s->sums + r * BLOCK + EDGE * h)));
    }
  }
}

/* Rows n .. n + rows - 1 of the call over one tile of keys; `q` is their A operand. */
static void block_attend(const ie_attend_args *args, const key_tile *t, int64_t n, int64_t rows,
                         const uint8_t *q, attend_scratch *s) {
  key_range any = {KEYS, 0};
  for (int64_t r = 0; r < rows; r++) {
    key_range keys = range_of(args, t, n + r);
    if (keys.begin >= keys.end) continue;
    any.begin = ie_min_i64(any.begin, keys.begin);
    any.end = ie_max_i64(any.end, keys.end);
  }
  if (any.begin >= any.end) return;
  const size_t both = (size_t)t->parts * TILE_BYTES, key_bytes = (size_t)t->steps * both;
  const int64_t first = any.begin / STEP, last = ie_div_up(any.end, STEP);
  for (int64_t k = first; k < last; k++) {
    operands o = {.a = q,
                  .b = s->k + (size_t)(2 * k) * key_bytes,
                  .a_other = (size_t)(t->steps * PARTS * TILE_BYTES),
                  .b_other = key_bytes,
                  .steps = t->steps};
    multiply_parts(s->logits + k * STEP, KEYS, &o, t->parts);
  }
  for (int64_t r = 0; r < BLOCK; r++) {
    uint8_t *out = s->p + (r / EDGE * (KEYS / STEP) * PARTS * TILE_BYTES + r % EDGE * 64);
    key_range keys = r < rows ? range_of(args, t, n + r) : (key_range){0, 0};
    s->keep[r] = -1; /* sees nothing */
    if (keys.begin >= keys.end) {
      row_clear(out);
      continue;
    }
    s->keep[r] = row_softmax(args, n + r, keys, s->logits + r * KEYS, out);
    if (t->bad >> keys.begin << (KEYS - keys.end + keys.begin) != 0) s->keep[r] = NAN;
  }
  for (int64_t d = 0; d < args->D; d += BLOCK) {
    operands o = {.a = s->p + first * PARTS * TILE_BYTES,
                  .b = s->v + (size_t)(d / EDGE * (KEYS / STEP) + first) * both,
                  .a_other = (size_t)(KEYS / STEP * PARTS * TILE_BYTES),
                  .b_other = (size_t)(KEYS / STEP) * both,
                  .steps = last - first};
    multiply_parts(s->sums, BLOCK, &o, t->parts);
    rows_add(args, n, rows, d, s);
  }
}

/* --- A call ------------------------------------------------------------------------------------------------------- */

static key_tile tile_range(const ie_attend_args *args, int64_t s0, int64_t n0, int64_t n1) {
  key_tile t = {.s0 = s0, .begin = KEYS, .end = 0};
  t.steps = ie_div_up(args->D, STEP);
  t.parts = args->kv_dtype == IE_BF16 ? 1 : OTHER_PARTS;
  for (int64_t n = n0; n < n1; n++) {
    key_range keys = range_of(args, &t, n);
    if (keys.begin >= keys.end) continue;
    t.begin = ie_min_i64(t.begin, keys.begin);
    t.end = ie_max_i64(t.end, keys.end);
  }
  return t;
}

/* Rows n0 .. n1 - 1, as many as fit the packed queries. */
static void rows_attend(const ie_attend_args *args, int64_t n0, int64_t n1, attend_scratch *scratch) {
  const int64_t steps = ie_div_up(args->D, STEP);
  int64_t first = INT64_MAX, last = 0;
  for (int64_t n = n0; n < n1; n++) {
    if (args->lo[n] >= args->hi[n]) continue;
    first = ie_min_i64(first, args->lo[n]);
    last = ie_max_i64(last, args->hi[n]);
  }
  if (first >= last) return;
  queries_pack(args, n0, n1 - n0, steps, scratch->q);
  for (int64_t s0 = first - first % KEYS; s0 < last; s0 += KEYS) {
    key_tile t = tile_range(args, s0, n0, n1);
    if (t.begin >= t.end) continue;
    tile_pack(args, &t, scratch);
    for (int64_t n = n0; n < n1; n += BLOCK)
      block_attend(args, &t, n, ie_min_i64(BLOCK, n1 - n),
                   scratch->q + (n - n0) / EDGE * steps * PARTS * TILE_BYTES, scratch);
  }
}

static void attend_many(const ie_attend_args *args) {
  if (args->D > D_MAX || args->kv_dtype == IE_F32) {
    ie_attend__avx512(args);
    return;
  }
  attend_scratch scratch;
  const int64_t row_bytes = ie_div_up(args->D, STEP) * PARTS * 64;
  const int64_t most = QUERY_BYTES / row_bytes / BLOCK * BLOCK;
  tiles_begin();
  for (int64_t n = 0; n < args->N; n += most) rows_attend(args, n, ie_min_i64(n + most, args->N), &scratch);
  tiles_end();
}

void ie_kernels_fill_attend__amx(ie_kernels *out) {
  out->attend_many = attend_many;
  out->attend_many_rows = BLOCK / 2 + 1; /* estimate: a block that is half empty still beats f32 FMA */
}
