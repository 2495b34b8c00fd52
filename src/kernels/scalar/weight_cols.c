#include "kernels/weight_cols.h"

#include "base/float.h"
#include "base/size.h"
#include "blocks/int4.h"
#include "blocks/int8.h"
#include "blocks/mxfp4.h"

#include <string.h>

enum { COLS = 32 }; /* that are decoded at once */

/* Columns 32 b .. 32 b + 31 of a row of quantised weights. */
static void block_decode(float out[COLS], const ie_wview *w, int64_t row, int64_t b) {
  const uint8_t *data = w->part[0] + (size_t)row * w->row_bytes[0];
  const uint8_t *scales = w->part[1] + (size_t)row * w->row_bytes[1];
  uint16_t h;
  if (w->format == IE_W_MXFP4) {
    ie_mxfp4_decode_block(out, data + b * IE_MXFP4_BYTES, scales[b]);
  } else if (w->format == IE_W_INT8) {
    memcpy(&h, scales + 2 * b, 2);
    ie_int8_decode_block(out, (const int8_t *)data + b * IE_INT8_COLS, h);
  } else {
    float both[IE_INT4_COLS];
    memcpy(&h, scales + 2 * (b / 2), 2);
    ie_int4_decode_block(both, data + b / 2 * IE_INT4_BYTES, h);
    memcpy(out, both + b % 2 * COLS, COLS * sizeof *out);
  }
}

void ie_weight_cols__scalar(float *out, const ie_wview *w, int64_t row, int64_t col, int64_t n) {
  const uint8_t *data = w->part[0] + (size_t)row * w->row_bytes[0];
  switch (w->format) {
  case IE_W_F32: memcpy(out, data + 4 * col, 4 * (size_t)n); return;
  case IE_W_F16:
  case IE_W_BF16:
    for (int64_t i = 0; i < n; i++) {
      uint16_t h;
      memcpy(&h, data + 2 * (col + i), 2);
      out[i] = w->format == IE_W_F16 ? ie_f16_to_f32(h) : ie_bf16_to_f32(h);
    }
    return;
  default: break;
  }
  for (int64_t i = 0; i < n; i += COLS) {
    if (n - i >= COLS) {
      block_decode(out + i, w, row, (col + i) / COLS);
    } else {
      float block[COLS];
      block_decode(block, w, row, (col + i) / COLS);
      memcpy(out + i, block, (size_t)(n - i) * sizeof *out);
    }
  }
}

void ie_kernels_fill_weight_cols__scalar(ie_kernels *out) {
  out->weight_cols = ie_weight_cols__scalar;
}
