#include "support/integer_weight.h"

#include "base/float.h"
#include "base/rng.h"
#include "blocks/int4.h"
#include "blocks/int8.h"

#include <string.h>

static int64_t group_cols(const ie_weight *w) {
  return w->format == IE_W_INT4 ? IE_INT4_COLS : IE_INT8_COLS;
}

void integer_weight_fill(uint64_t stream, const ie_weight *w, uint8_t *const part[2]) {
  bool nibbles = w->format == IE_W_INT4;
  int64_t cols = group_cols(w), groups = (w->cols + cols - 1) / cols;
  for (int64_t row = 0; row < w->experts * w->rows; row++) {
    uint8_t *codes = part[0] + (size_t)row * w->row_bytes[0];
    for (int64_t i = 0; i < (int64_t)w->row_bytes[0]; i++) {
      uint8_t any = (uint8_t)ie_rng_u64(11, stream, (uint64_t)(row * (int64_t)w->row_bytes[0] + i));
      if (nibbles)
        codes[i] = (uint8_t)((2 * i < w->cols ? any & 15 : 8) | (2 * i + 1 < w->cols ? any & 0xF0 : 0x80));
      else
        codes[i] = i < w->cols ? any : 0;
    }
    for (int64_t g = 0; g < groups; g++) {
      uint64_t any = ie_rng_u64(12, stream, (uint64_t)(row * groups + g));
      uint16_t scale = (uint16_t)(((nibbles ? 11 : 7) + any % 4) << 10 | (any >> 8 & 1) << 15);
      memcpy(part[1] + (size_t)row * w->row_bytes[1] + 2 * (size_t)g, &scale, sizeof scale);
    }
  }
}

double integer_weight_at(const ie_weight *w, int64_t expert, int64_t row, int64_t col) {
  const uint8_t *codes = w->part[0] + (size_t)expert * w->expert_bytes[0] + (size_t)row * w->row_bytes[0];
  const uint8_t *scales = w->part[1] + (size_t)expert * w->expert_bytes[1] + (size_t)row * w->row_bytes[1];
  uint16_t scale;
  memcpy(&scale, scales + sizeof scale * (size_t)(col / group_cols(w)), sizeof scale);
  int code =
      w->format == IE_W_INT8 ? (int8_t)codes[col] : (col % 2 ? codes[col / 2] >> 4 : codes[col / 2] & 15) - 8;
  return code * (double)ie_f16_to_f32(scale);
}
