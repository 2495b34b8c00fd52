/* Matrix-matrix products in f32: 6 rows x 16 tokens in 12 registers, each weight broadcast to both. */
#include "kernels/products_many.h"
#include "kernels/avx2/products.h"

enum { ROWS = 6, LANES = 8, PAD_COLS = 32 /* of packed columns, for float weights */ };

ALWAYS_INLINE void micro(float *sums, const float *panel, const float *x, size_t x_group, int64_t n,
                         bool first, int groups) {
  __m256 s[ROWS][2];
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
    for (int g = 0; g < groups; g++)
      s[r][g] = first ? _mm256_setzero_ps() : _mm256_load_ps(sums + 2 * LANES * r + LANES * g);
  for (int64_t k = 0; k < n; k++) {
    __m256 xk[2];
#pragma GCC unroll 2
    for (int g = 0; g < groups; g++) xk[g] = _mm256_load_ps(x + (size_t)g * x_group + LANES * k);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++) {
      __m256 w = _mm256_broadcast_ss(panel + IE_MANY_COLS * r + k);
#pragma GCC unroll 2
      for (int g = 0; g < groups; g++) s[r][g] = _mm256_fmadd_ps(w, xk[g], s[r][g]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
    for (int g = 0; g < groups; g++) _mm256_store_ps(sums + 2 * LANES * r + LANES * g, s[r][g]);
}

static void two_groups(float *sums, const float *panel, const float *x, size_t x_group, int64_t n,
                       bool first) {
  micro(sums, panel, x, x_group, n, first, 2);
}

static void one_group(float *sums, const float *panel, const float *x, size_t x_group, int64_t n,
                      bool first) {
  micro(sums, panel, x, x_group, n, first, 1);
}

ALWAYS_INLINE void decode_floats(float *panel, const ie_wview *w, int64_t row, int64_t k0, int64_t n,
                                 ie_wformat format) {
  const uint8_t *p = w->part[0] + (size_t)row * w->row_bytes[0];
  for (int64_t k = 0; k < (int64_t)ie_size_align((size_t)n, PAD_COLS); k += STEP_COLS) {
    __m256 v[2];
    load_weights(v, p, k0 + k, k0 + n, format);
    _mm256_store_ps(panel + k, v[0]);
    _mm256_store_ps(panel + k + 8, v[1]);
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
  for (int64_t k = 0; k < n; k += MX_CHUNK_COLS) {
    int64_t blocks = format == IE_W_MXFP4 ? (n - k) / IE_BLOCK_COLS : 2; /* a row of INT4 is whole groups */
    __m256i bytes = load_nibbles(p + k / 2, blocks);
    __m256 scale = load_scales(scales + k / IE_BLOCK_COLS, blocks, format), v[8];
    unpack_nibbles(v, low_nibbles(bytes), format);
    unpack_nibbles(v + 4, high_nibbles(bytes), format);
    for (int i = 0; i < 8; i++) _mm256_store_ps(panel + k + 8 * i, _mm256_mul_ps(v[i], scale));
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
    __m256 scale = _mm256_set1_ps(load_f16(scales + k / IE_INT8_COLS * 2));
    for (int i = 0; i < IE_INT8_COLS; i += 8) {
      __m256i v = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + k + i)));
      _mm256_store_ps(panel + k + i, _mm256_mul_ps(_mm256_cvtepi32_ps(v), scale));
    }
  }
}

/* Tokens t0 .. t1 - 1 in groups of 8 (the last one filled with zeros): element (k, token) of a group at packed
 * column k. */
ALWAYS_INLINE void pack_groups(float *packed, const float *x, int64_t x_stride, const int32_t *x_rows,
                               int64_t t0, int64_t t1, int64_t K, ie_class class, order ordering) {
  int64_t padded = (int64_t)ie_size_align((size_t)K, ordering == ORDER_NIBBLES ? MX_CHUNK_COLS : PAD_COLS);
  for (int64_t t = t0; t < t1; t += LANES)
    for (int64_t k0 = 0; k0 < padded; k0 += IE_BLOCK_COLS) {
      float v[LANES][IE_BLOCK_COLS] = {{0}};
      for (int64_t i = 0; i < LANES && t + i < t1; i++)
        load_rounded(v[i], ie_pack_source(x, x_stride, x_rows, t + i), k0, K, class);
      float *out = packed + t * padded;
      for (int64_t k = 0; k < IE_BLOCK_COLS; k++)
        for (int64_t i = 0; i < LANES; i++) out[LANES * packed_col(k0 + k, ordering) + i] = v[i][k];
    }
}

#define DEFINE_PACK(name, class, ordering)                                                                   \
  static void name(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T,         \
                   int64_t t0, int64_t t1, int64_t K) {                                                      \
    (void)T;                                                                                                 \
    pack_groups(packed, x, x_stride, x_rows, t0, t1, K, class, ordering);                                    \
  }
#define DEFINE_MANY(suffix, ordering, pad)                                                                   \
  static const ie_many many_##suffix = {ROWS,       LANES,     pad,          decode_##suffix,                \
                                        two_groups, one_group, ie_many_store};                               \
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
DEFINE_MANY(f32, ORDER_NATURAL, PAD_COLS)
DEFINE_MANY(f16, ORDER_NATURAL, PAD_COLS)
DEFINE_MANY(bf16, ORDER_PAIRS, PAD_COLS)
DEFINE_MANY(mxfp4, ORDER_NIBBLES, MX_CHUNK_COLS)
DEFINE_MANY(int8, ORDER_NATURAL, PAD_COLS)
DEFINE_MANY(int4, ORDER_NIBBLES, MX_CHUNK_COLS)

#define MANY(class, suffix)                                                                                  \
  { pack_bytes_##suffix, pack_##class##_##suffix, ie_many_scratch_bytes, run_##suffix, ROWS, LANES }
#define MANY_OF(class)                                                                                       \
  {                                                                                                          \
    [IE_W_F32] = MANY(class, f32), [IE_W_F16] = MANY(class, f16), [IE_W_BF16] = MANY(class, bf16),           \
    [IE_W_MXFP4] = MANY(class, mxfp4), [IE_W_INT8] = MANY(class, int8), [IE_W_INT4] = MANY(class, int4)      \
  }

const ie_product ie_many_products__avx2[IE_CLASS_COUNT][IE_W_COUNT] = {
    [IE_CLASS_F32] = MANY_OF(f32),
    [IE_CLASS_BF16] = MANY_OF(bf16),
    [IE_CLASS_F16] = MANY_OF(f16),
    [IE_CLASS_INT8] = MANY_OF(int8),
};
