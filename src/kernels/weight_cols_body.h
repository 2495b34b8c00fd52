/* The numbers of weights in the vocabulary of simd.h: by the definition of scalar/weight_cols.c, to the bit. The file that
 * includes this has included its simd.h and defines nibbles_mxfp4 and nibbles_int4: the numbers of VF_LANES codes, a
 * byte each. */
#ifndef CLOCHER_KERNELS_WEIGHT_COLS_BODY_H
#define CLOCHER_KERNELS_WEIGHT_COLS_BODY_H

#include "base/float.h"
#include "base/size.h"
#include "blocks/int4.h"
#include "blocks/int8.h"
#include "blocks/mxfp4.h"
#include "kernels/weight_cols.h"

#ifdef KERNEL /* nothing without the vocabulary */

enum { COLS = 32 }; /* that are decoded at once */

/* 32 codes of four bits, in the order of columns. */
INLINE void nibbles_split(uint8_t codes[COLS], const uint8_t *bytes) {
  __m128i x = _mm_loadu_si128((const void *)bytes), mask = _mm_set1_epi8(15);
  __m128i low = _mm_and_si128(x, mask), high = _mm_and_si128(_mm_srli_epi16(x, 4), mask);
  _mm_storeu_si128((void *)codes, _mm_unpacklo_epi8(low, high));
  _mm_storeu_si128((void *)(codes + 16), _mm_unpackhi_epi8(low, high));
}

INLINE float scale_f16(const uint8_t *p) {
  uint16_t h;
  memcpy(&h, p, 2);
  return ie_f16_to_f32(h);
}

/* Columns 32 b .. 32 b + 31 of a row of quantised weights. */
INLINE void block_decode(float out[COLS], const uint8_t *data, const uint8_t *scales, int64_t b,
                         const ie_wformat format) {
  uint8_t codes[COLS];
  if (format == IE_W_INT8) {
    vf scale = vf_set1(scale_f16(scales + 2 * b));
    for (int i = 0; i < COLS; i += VF_LANES)
      vf_store(out + i, vf_mul(scale, vf_load_i8((const int8_t *)data + b * COLS + i)));
  } else if (format == IE_W_INT4) {
    vf scale = vf_set1(scale_f16(scales + 2 * (b / 2)));
    nibbles_split(codes, data + b * (COLS / 2));
    for (int i = 0; i < COLS; i += VF_LANES) vf_store(out + i, vf_mul(scale, nibbles_int4(codes + i)));
  } else {
    vf scale = vf_set1(ie_mxfp4_scales[scales[b]]);
    nibbles_split(codes, data + b * (COLS / 2));
    for (int i = 0; i < COLS; i += VF_LANES) vf_store(out + i, vf_mul(scale, nibbles_mxfp4(codes + i)));
  }
}

INLINE void blocks_decode(float *out, const uint8_t *data, const uint8_t *scales, int64_t col, int64_t n,
                          const ie_wformat format) {
  int64_t i = 0;
  for (; i + COLS <= n; i += COLS) block_decode(out + i, data, scales, (col + i) / COLS, format);
  if (i == n) return;
  float last[COLS];
  block_decode(last, data, scales, (col + i) / COLS, format);
  memcpy(out + i, last, (size_t)(n - i) * sizeof *out);
}

static void weight_cols(float *out, const ie_wview *w, int64_t row, int64_t col, int64_t n) {
  const uint8_t *data = w->part[0] + (size_t)row * w->row_bytes[0];
  const uint8_t *scales = w->part[1] + (size_t)row * w->row_bytes[1];
  const uint16_t *words = (const void *)(data + 2 * col);
  switch (w->format) {
  case IE_W_F16:
    for (int64_t i = 0; i < n; i += VF_LANES) {
      int64_t lanes = ie_min_i64(n - i, VF_LANES);
      vf_store_n(out + i, vf_load_f16_n(words + i, lanes), lanes);
    }
    return;
  case IE_W_BF16:
    for (int64_t i = 0; i < n; i += VF_LANES) {
      int64_t lanes = ie_min_i64(n - i, VF_LANES);
      vf_store_n(out + i, vf_load_bf16_n(words + i, lanes), lanes);
    }
    return;
  case IE_W_MXFP4: blocks_decode(out, data, scales, col, n, IE_W_MXFP4); return;
  case IE_W_INT8: blocks_decode(out, data, scales, col, n, IE_W_INT8); return;
  case IE_W_INT4: blocks_decode(out, data, scales, col, n, IE_W_INT4); return;
  default: ie_weight_cols__scalar(out, w, row, col, n); return;
  }
}

void KERNEL(ie_kernels_fill_weight_cols)(ie_kernels *out) {
  out->weight_cols = weight_cols;
}

#endif
#endif
