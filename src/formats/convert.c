#include "formats/convert.h"

#include "base/float.h"

#include <string.h>

bool ie_convert_knows(ie_dtype dtype) {
  return dtype == IE_F32 || dtype == IE_F16 || dtype == IE_BF16;
}

void ie_convert_to_f32(ie_dtype dtype, const void *in, int64_t count, float *out) {
  const uint8_t *bytes = in;
  if (dtype == IE_F32) {
    if (count) memcpy(out, in, (size_t)count * sizeof *out);
    return;
  }
  for (int64_t i = 0; i < count; i++) {
    uint16_t half;
    memcpy(&half, bytes + 2 * i, sizeof half);
    out[i] = dtype == IE_F16 ? ie_f16_to_f32(half) : ie_bf16_to_f32(half);
  }
}

int64_t ie_convert_from_f32(ie_dtype dtype, const float *in, int64_t count, void *out) {
  uint16_t *half = out;
  for (int64_t i = 0; i < count; i++) {
    bool finite;
    if (dtype == IE_F32) {
      finite = (ie_f32_bits(in[i]) & 0x7F800000u) != 0x7F800000u;
      ((float *)out)[i] = in[i];
    } else if (dtype == IE_BF16) {
      half[i] = ie_f32_to_bf16(in[i]);
      finite = (half[i] & 0x7F80u) != 0x7F80u;
    } else {
      half[i] = ie_f32_to_f16(in[i]);
      finite = (half[i] & 0x7C00u) != 0x7C00u;
    }
    if (!finite) return i;
  }
  return -1;
}
