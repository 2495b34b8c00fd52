/* The read loop of the memory probe for any vector type; a file defines INLINE, UNROLL, the type vi, VI_ZERO,
 * VI_XOR and LOADS (vectors in 256 bytes) first. */
#ifndef CLOCHER_KERNELS_PROBE_BODY_H
#define CLOCHER_KERNELS_PROBE_BODY_H

#include "kernels/probe.h"

#include <string.h>

#ifdef VI_XOR /* nothing without the vocabulary */
/* Four lines of each stream in turn; the sums of the lines are independent. */
INLINE uint64_t read_streams(const uint8_t *p, size_t bytes, int streams, bool prefetch) {
  size_t part = bytes / (size_t)streams;
  vi digest[LOADS];
  UNROLL for (int j = 0; j < LOADS; j++) digest[j] = VI_ZERO;
  for (size_t i = 0; i < part; i += LOADS * sizeof(vi)) {
    UNROLL for (int k = 0; k < streams; k++) {
      const uint8_t *q = p + (size_t)k * part + i;
      if (prefetch) {
        UNROLL for (int j = 0; j < LOADS * (int)sizeof(vi) / 64; j++)
            __builtin_prefetch(q + IE_PROBE_AHEAD + 64 * j, /*write=*/0, /*locality=*/3);
      }
      UNROLL for (int j = 0; j < LOADS; j++) digest[j] = VI_XOR(digest[j], ((const vi *)(const void *)q)[j]);
    }
  }
  UNROLL for (int j = 1; j < LOADS; j++) digest[0] = VI_XOR(digest[0], digest[j]);
  uint64_t words[sizeof(vi) / 8];
  memcpy(words, &digest[0], sizeof words);
  for (size_t j = 1; j < sizeof words / 8; j++) words[0] ^= words[j];
  return words[0];
}

static uint64_t probe_read(const uint8_t *p, size_t bytes, int streams, bool prefetch) {
  switch (streams * 2 + prefetch) {
  case 2: return read_streams(p, bytes, 1, false);
  case 3: return read_streams(p, bytes, 1, true);
  case 4: return read_streams(p, bytes, 2, false);
  case 5: return read_streams(p, bytes, 2, true);
  case 8: return read_streams(p, bytes, 4, false);
  case 9: return read_streams(p, bytes, 4, true);
  case 16: return read_streams(p, bytes, 8, false);
  default: return read_streams(p, bytes, 8, true);
  }
}

#endif
#endif
