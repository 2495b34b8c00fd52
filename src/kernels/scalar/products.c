/* The definition of every product, in plain C. Activations: one padded row of numbers a token. Sums: f32, 32 columns
 * at a time, and the sums of 32 added in column order. */
#include "blocks/int4.h"
#include "blocks/int8.h"
#include "blocks/mxfp4.h"
#include "kernels/products_common.h"
#include "kernels/weight_cols.h"

/* Activations of all products but INT8 x quantised weights: f32 (T, K), rows padded to 64 bytes. */
static size_t float_token_bytes(int64_t K) {
  return ie_size_align((size_t)K * sizeof(float), 64);
}
static size_t float_pack_bytes(int64_t T, int64_t K) {
  return (size_t)T * float_token_bytes(K);
}

/* Rounds one row as the class says. */
static void round_row(float *out, const float *x, int64_t K, ie_class class) {
  for (int64_t k0 = 0; k0 < K; k0 += IE_BLOCK_COLS) {
    int n = (int)ie_min_i64(K - k0, IE_BLOCK_COLS);
    int8_t q[IE_BLOCK_COLS];
    float s = class == IE_CLASS_INT8 ? ie_quantise_block(q, x + k0, n) : 0;
    for (int i = 0; i < n; i++) {
      float v = x[k0 + i];
      switch (class) {
      case IE_CLASS_BF16: v = ie_f32_round_bf16(v); break;
      case IE_CLASS_F16: v = ie_f32_round_f16(v); break;
      case IE_CLASS_INT8: v = (float)q[i] * s; break;
      default: break;
      }
      out[k0 + i] = v;
    }
  }
}

static void pack_rows(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t t0,
                      int64_t t1, int64_t K, ie_class class) {
  for (int64_t t = t0; t < t1; t++) {
    float *out = (float *)((char *)packed + (size_t)t * float_token_bytes(K));
    round_row(out, ie_pack_source(x, x_stride, x_rows, t), K, class);
  }
}

#define DEFINE_PACK(name, class)                                                                             \
  static void name(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T,         \
                   int64_t t0, int64_t t1, int64_t K) {                                                      \
    (void)T;                                                                                                 \
    pack_rows(packed, x, x_stride, x_rows, t0, t1, K, class);                                                \
  }
DEFINE_PACK(pack_f32, IE_CLASS_F32)
DEFINE_PACK(pack_bf16, IE_CLASS_BF16)
DEFINE_PACK(pack_f16, IE_CLASS_F16)
DEFINE_PACK(pack_int8_as_f32, IE_CLASS_INT8)

/* The f16 scale of a block of a row. */
static uint16_t scale_f16(const ie_wview *w, int64_t row, int64_t block) {
  uint16_t h;
  memcpy(&h, w->part[1] + (size_t)row * w->row_bytes[1] + 2 * block, 2);
  return h;
}

static void run_float(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch) {
  (void)scratch;
  int64_t K = args->w.cols;
  for (int64_t r = r0; r < r1; r++) {
    float bias = ie_product_bias(args, r);
    for (int64_t t = 0; t < args->T; t++) {
      const float *x = (const float *)((const char *)args->packed + (size_t)t * float_token_bytes(K));
      float sum = 0;
      for (int64_t k0 = 0; k0 < K; k0 += IE_BLOCK_COLS) {
        int n = (int)ie_min_i64(K - k0, IE_BLOCK_COLS);
        float w[IE_BLOCK_COLS], part = 0;
        ie_weight_cols__scalar(w, &args->w, r, k0, n);
        for (int i = 0; i < n; i++) part += x[k0 + i] * w[i];
        sum += part;
      }
      ie_product_store(args, t, r, sum, bias);
    }
  }
}

/* Activations of INT8 x quantised weights: one block of 32 columns after the other. */
typedef struct int8_block {
  float scale;
  int8_t q[IE_BLOCK_COLS];
} int8_block;

static size_t int8_token_bytes(int64_t K) {
  return ie_size_align((size_t)ie_div_up(K, IE_BLOCK_COLS) * sizeof(int8_block), 64);
}
static size_t int8_pack_bytes(int64_t T, int64_t K) {
  return (size_t)T * int8_token_bytes(K);
}

static void pack_int8(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T,
                      int64_t t0, int64_t t1, int64_t K) {
  (void)T;
  for (int64_t t = t0; t < t1; t++) {
    int8_block *out = (int8_block *)((char *)packed + (size_t)t * int8_token_bytes(K));
    const float *row = ie_pack_source(x, x_stride, x_rows, t);
    for (int64_t k = 0; k < K; k += IE_BLOCK_COLS, out++)
      out->scale = ie_quantise_block(out->q, row + k, (int)ie_min_i64(K - k, IE_BLOCK_COLS));
  }
}

/* Twice the sum of value * q over a block of MXFP4: an exact integer of at most 12 * 127 * 32. */
static int dot_mxfp4(const uint8_t *w, const int8_t *q) {
  static const int8_t twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  int sum = 0;
  for (int i = 0; i < IE_MXFP4_BYTES; i++)
    sum += twice[w[i] & 15] * q[2 * i] + twice[w[i] >> 4] * q[2 * i + 1];
  return sum;
}

/* The sum of code * q over 32 columns. */
static int dot_int4(const uint8_t *w, const int8_t *q) {
  int sum = 0;
  for (int i = 0; i < IE_BLOCK_COLS / 2; i++)
    sum += ((w[i] & 15) - 8) * q[2 * i] + ((w[i] >> 4) - 8) * q[2 * i + 1];
  return sum;
}

static int dot_int8(const int8_t *w, const int8_t *q) {
  int sum = 0;
  for (int i = 0; i < IE_BLOCK_COLS; i++) sum += w[i] * q[i];
  return sum;
}

/* Block b of row r, times its activations: the integer sum, times their scale and that of the weights. */
static float dot_block(const ie_wview *w, int64_t r, int64_t b, const int8_block *x) {
  const uint8_t *data = w->part[0] + (size_t)r * w->row_bytes[0];
  switch (w->format) {
  case IE_W_INT8:
    return (float)dot_int8((const int8_t *)data + b * IE_INT8_COLS, x->q) * x->scale *
           ie_f16_to_f32(scale_f16(w, r, b));
  case IE_W_INT4:
    return (float)dot_int4(data + b * (IE_INT4_BYTES / 2), x->q) * x->scale *
           ie_f16_to_f32(scale_f16(w, r, b / 2));
  default:
    return (float)dot_mxfp4(data + b * IE_MXFP4_BYTES, x->q) * (0.5f * x->scale) *
           ie_mxfp4_scales[w->part[1][(size_t)r * w->row_bytes[1] + (size_t)b]];
  }
}

static void run_int8(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch) {
  (void)scratch;
  int64_t blocks = ie_div_up(args->w.cols, IE_BLOCK_COLS);
  for (int64_t r = r0; r < r1; r++) {
    float bias = ie_product_bias(args, r);
    for (int64_t t = 0; t < args->T; t++) {
      const int8_block *x =
          (const int8_block *)((const char *)args->packed + (size_t)t * int8_token_bytes(args->w.cols));
      float sum = 0;
      for (int64_t b = 0; b < blocks; b++) sum += dot_block(&args->w, r, b, &x[b]);
      ie_product_store(args, t, r, sum, bias);
    }
  }
}

void ie_kernels_fill_products__scalar(ie_kernels *out) {
  static const ie_product floats[IE_CLASS_COUNT] = {
      [IE_CLASS_F32] = {float_pack_bytes, pack_f32, NULL, run_float, 1, 1},
      [IE_CLASS_BF16] = {float_pack_bytes, pack_bf16, NULL, run_float, 1, 1},
      [IE_CLASS_F16] = {float_pack_bytes, pack_f16, NULL, run_float, 1, 1},
      [IE_CLASS_INT8] = {float_pack_bytes, pack_int8_as_f32, NULL, run_float, 1, 1},
  };
  for (int class = 0; class < IE_CLASS_COUNT; class ++)
    for (int format = 0; format < IE_W_COUNT; format++) {
      out->few[class][format] = floats[class];
      out->many_min_tok[class][format] = INT64_MAX;
    }
  static const ie_wformat quantised[] = {IE_W_MXFP4, IE_W_INT8, IE_W_INT4};
  for (size_t i = 0; i < sizeof quantised / sizeof quantised[0]; i++)
    out->few[IE_CLASS_INT8][quantised[i]] = (ie_product){int8_pack_bytes, pack_int8, NULL, run_int8, 1, 1};
}
