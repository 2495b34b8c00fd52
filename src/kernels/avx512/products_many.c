/* Matrix-matrix products in f32: 12 rows x 32 tokens in 24 registers, each weight broadcast to both. */
#include "kernels/products_many.h"
#include "kernels/avx512/products.h"
#include "kernels/avx512/products_tiles.h"
#include "kernels/avx512/transpose.h"

#include "blocks/int4.h"
#include "blocks/int8.h"
#include "blocks/mxfp4.h"

enum { ROWS = 12, LANES = 16 };

ALWAYS_INLINE void micro(float *sums, const float *panel, const float *x, size_t x_group, int64_t n,
                         bool first, int groups) {
  __m512 s[ROWS][2];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
    for (int g = 0; g < groups; g++)
      s[r][g] = first ? _mm512_setzero_ps() : _mm512_load_ps(sums + 2 * LANES * r + LANES * g);
  for (int64_t k = 0; k < n; k++) {
    __m512 xk[2];
#pragma GCC unroll 2
    for (int g = 0; g < groups; g++) xk[g] = _mm512_load_ps(x + (size_t)g * x_group + LANES * k);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) {
      __m512 w = _mm512_set1_ps(panel[IE_MANY_COLS * r + k]);
#pragma GCC unroll 2
      for (int g = 0; g < groups; g++) s[r][g] = _mm512_fmadd_ps(w, xk[g], s[r][g]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
    for (int g = 0; g < groups; g++) _mm512_store_ps(sums + 2 * LANES * r + LANES * g, s[r][g]);
}

static void two_groups(float *sums, const float *panel, const float *x, size_t x_group, int64_t n,
                       bool first) {
  micro(sums, panel, x, x_group, n, first, 2);
}

static void one_group(float *sums, const float *panel, const float *x, size_t x_group, int64_t n,
                      bool first) {
  micro(sums, panel, x, x_group, n, first, 1);
}

/* --- Weights ---------------------------------------------------------------------------------------------------- */

ALWAYS_INLINE void decode_floats(float *panel, const ie_wview *w, int64_t row, int64_t k0, int64_t n,
                                 ie_wformat format) {
  const uint8_t *p = w->part[0] + (size_t)row * w->row_bytes[0];
  for (int64_t k = 0; k < n; k += 32) {
    __m512 v[2];
    load_weights(v, p, k0 + k, n - k, format);
    _mm_prefetch((const char *)p + (k0 + k) * (format == IE_W_F32 ? 4 : 2) + (ptrdiff_t)w->row_bytes[0],
                 _MM_HINT_T0);
    _mm512_store_ps(panel + k, v[0]);
    _mm512_store_ps(panel + k + 16, v[1]);
  }
}

static void decode_f32(float *panel, const ie_wview *w, int64_t row, int64_t k0, int64_t n) {
  decode_floats(panel, w, row, k0, n, IE_W_F32);
}
static void decode_f16(float *panel, const ie_wview *w, int64_t row, int64_t k0, int64_t n) {
  decode_floats(panel, w, row, k0, n, IE_W_F16);
}
static void decode_bf16(float *panel, const ie_wview *w, int64_t row, int64_t k0, int64_t n) {
  decode_floats(panel, w, row, k0, n, IE_W_BF16);
}

ALWAYS_INLINE void decode_nibbles(float *panel, const ie_wview *w, int64_t row, int64_t k0, int64_t n,
                                  ie_wformat format) {
  const uint8_t *p = w->part[0] + (size_t)row * w->row_bytes[0] + k0 / 2;
  const uint8_t *scales = w->part[1] + (size_t)row * w->row_bytes[1] + k0 / IE_BLOCK_COLS;
  const __m512 values = _mm512_loadu_ps(format == IE_W_MXFP4 ? ie_mxfp4_values : ie_int4_values);
  for (int64_t k = 0; k < n; k += MX_CHUNK_COLS) {
    int64_t left = format == IE_W_MXFP4 ? n - k : ie_div_up(n - k, IE_INT4_COLS) * IE_INT4_COLS;
    const uint8_t *s = scales + k / IE_BLOCK_COLS; /* a byte for 32 columns, or two for 64 */
    __m512 scale = format == IE_W_MXFP4
                       ? spread_scales(load_scales(s, mask16_clamped(left / IE_BLOCK_COLS)), 0)
                       : spread_pairs(load_f16_scales(s, mask16_clamped(left / IE_INT4_COLS) & 3), 0);
    __m512i bytes = _mm512_maskz_loadu_epi32(mask16_clamped(left / 8), p + k / 2);
    _mm_prefetch((const char *)p + k / 2 + (ptrdiff_t)w->row_bytes[0], _MM_HINT_T0);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
      __m512 v = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, (unsigned)(4 * j)), values);
      _mm512_store_ps(panel + k + 16 * j, _mm512_mul_ps(v, scale));
    }
  }
}

static void decode_mxfp4(float *panel, const ie_wview *w, int64_t row, int64_t k0, int64_t n) {
  decode_nibbles(panel, w, row, k0, n, IE_W_MXFP4);
}
static void decode_int4(float *panel, const ie_wview *w, int64_t row, int64_t k0, int64_t n) {
  decode_nibbles(panel, w, row, k0, n, IE_W_INT4);
}

static void decode_int8(float *panel, const ie_wview *w, int64_t row, int64_t k0, int64_t n) {
  const uint8_t *p = w->part[0] + (size_t)row * w->row_bytes[0] + k0;
  const uint8_t *scales = w->part[1] + (size_t)row * w->row_bytes[1] + k0 / IE_INT8_COLS * 2;
  for (int64_t k = 0; k < n; k += IE_INT8_COLS) {
    __m512 scale = _mm512_set1_ps(_mm512_cvtss_f32(load_f16_scales(scales + k / IE_INT8_COLS * 2, 1)));
    if (k % 64 == 0) _mm_prefetch((const char *)p + k + (ptrdiff_t)w->row_bytes[0], _MM_HINT_T0);
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      __m512i v = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + k + 16 * j)));
      _mm512_store_ps(panel + k + 16 * j, _mm512_mul_ps(_mm512_cvtepi32_ps(v), scale));
    }
  }
}

/* --- Activations ------------------------------------------------------------------------------------------------ */

/* Tokens t .. t + 15 (those from t1 on are zero): element (k, token) of the group at packed column k. */
ALWAYS_INLINE void pack_group(float *out, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t t,
                              int64_t t1, int64_t K, int64_t padded, ie_class class, order ordering) {
  for (int64_t k0 = 0; k0 < padded; k0 += 32) {
    __m512i half[2][LANES];
    for (int64_t i = 0; i < LANES; i++) {
      __m512 v[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
      if (t + i < t1 && k0 < K) load_rounded(v, ie_pack_source(x, x_stride, x_rows, t + i), k0, K, class);
      half[0][i] = _mm512_castps_si512(v[0]);
      half[1][i] = _mm512_castps_si512(v[1]);
    }
    transpose_16x16(half[0]);
    transpose_16x16(half[1]);
    for (int64_t c = 0; c < 32; c++)
      _mm512_store_si512(out + LANES * packed_col(k0 + c, ordering), half[c / 16][c % 16]);
  }
}

ALWAYS_INLINE void pack_groups(float *packed, const float *x, int64_t x_stride, const int32_t *x_rows,
                               int64_t t0, int64_t t1, int64_t K, ie_class class, order ordering) {
  int64_t padded = (int64_t)ie_size_align((size_t)K, ordering == ORDER_NIBBLES ? MX_CHUNK_COLS : 32);
  for (int64_t t = t0; t < t1; t += LANES)
    pack_group(packed + t * padded, x, x_stride, x_rows, t, t1, K, padded, class, ordering);
}

#define DEFINE_PACK(name, class, ordering)                                                                   \
  static void name(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T,         \
                   int64_t t0, int64_t t1, int64_t K) {                                                      \
    (void)T;                                                                                                 \
    pack_groups(packed, x, x_stride, x_rows, t0, t1, K, class, ordering);                                    \
  }
#define DEFINE_MANY(suffix, ordering, pad)                                                                   \
  static const ie_many many_##suffix = {                                                                     \
      ROWS, LANES, pad, decode_##suffix, two_groups, one_group, ie_tiles_store__avx512};                     \
  DEFINE_PACK(pack_f32_##suffix, IE_CLASS_F32, ordering)                                                     \
  DEFINE_PACK(pack_bf16_##suffix, IE_CLASS_BF16, ordering)                                                   \
  DEFINE_PACK(pack_f16_##suffix, IE_CLASS_F16, ordering)                                                     \
  DEFINE_PACK(pack_int8_##suffix, IE_CLASS_INT8, ordering)                                                   \
  static size_t pack_bytes_##suffix(int64_t T, int64_t K) {                                                  \
    return ie_many_pack_bytes(&many_##suffix, T, K);                                                         \
  }                                                                                                          \
  static void run_##suffix(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch) {             \
    ie_many_run(&many_##suffix, args, r0, r1, scratch);                                                      \
  }
DEFINE_MANY(f32, ORDER_NATURAL, 32)
DEFINE_MANY(f16, ORDER_NATURAL, 32)
DEFINE_MANY(bf16, ORDER_PAIRS, 32)
DEFINE_MANY(mxfp4, ORDER_NIBBLES, MX_CHUNK_COLS)
DEFINE_MANY(int8, ORDER_NATURAL, 32)
DEFINE_MANY(int4, ORDER_NIBBLES, MX_CHUNK_COLS)

#define MANY(class, suffix)                                                                                  \
  { pack_bytes_##suffix, pack_##class##_##suffix, ie_many_scratch_bytes, run_##suffix, ROWS, LANES }
#define MANY_OF(class)                                                                                       \
  {                                                                                                          \
    [IE_W_F32] = MANY(class, f32), [IE_W_F16] = MANY(class, f16), [IE_W_BF16] = MANY(class, bf16),           \
    [IE_W_MXFP4] = MANY(class, mxfp4), [IE_W_INT8] = MANY(class, int8), [IE_W_INT4] = MANY(class, int4)      \
  }

const ie_product ie_many_products__avx512[IE_CLASS_COUNT][IE_W_COUNT] = {
    [IE_CLASS_F32] = MANY_OF(f32),
    [IE_CLASS_BF16] = MANY_OF(bf16),
    [IE_CLASS_F16] = MANY_OF(f16),
    [IE_CLASS_INT8] = MANY_OF(int8),
};
