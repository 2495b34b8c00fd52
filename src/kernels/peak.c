#include "kernels/peak.h"

#include <string.h>

typedef uint64_t u64x2 __attribute__((vector_size(16)));

/* One body; the constants `streams` and `prefetch` are propagated into each copy. */
static inline __attribute__((always_inline)) uint64_t read_body(const char *p, size_t part, int streams,
                                                                bool prefetch) {
  u64x2 sum[IE_PEAK_STREAMS_MAX] = {{0}};
  for (size_t i = 0; i < part; i += 64)
#pragma GCC unroll 8
    for (int s = 0; s < streams; s++) {
      u64x2 a, b, c, d;
      const char *at = p + (size_t)s * part + i;
      /* beyond the end at the last lines: a prefetch never faults */
      if (prefetch) __builtin_prefetch(at + 1024);
      memcpy(&a, at, 16);
      memcpy(&b, at + 16, 16);
      memcpy(&c, at + 32, 16);
      memcpy(&d, at + 48, 16);
      sum[s] ^= (a ^ b) ^ (c ^ d);
    }
  uint64_t all = 0;
  for (int s = 0; s < streams; s++) all ^= sum[s][0] ^ sum[s][1];
  return all;
}

uint64_t ie_peak_read(const void *data, size_t bytes, int streams, bool prefetch) {
  const char *p = data;
  size_t part = bytes / (size_t)streams;
  if (streams == 1) return prefetch ? read_body(p, part, 1, true) : read_body(p, part, 1, false);
  if (streams == 2) return prefetch ? read_body(p, part, 2, true) : read_body(p, part, 2, false);
  if (streams == 4) return prefetch ? read_body(p, part, 4, true) : read_body(p, part, 4, false);
  return prefetch ? read_body(p, part, 8, true) : read_body(p, part, 8, false);
}

void ie_peak_fill(ie_peak *out, ie_isa isa) {
  *out = (ie_peak){0};
  ie_peak_fill__scalar(out);
#if defined(__x86_64__)
  if (isa >= IE_ISA_AVX2) ie_peak_fill__avx2(out);
  if (isa >= IE_ISA_AVX512) ie_peak_fill__avx512(out);
  if (isa >= IE_ISA_AMX) ie_peak_fill__amx(out);
#else
  (void)isa;
#endif
}
