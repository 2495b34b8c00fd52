#include "kernels/probe.h"

#include <string.h>

void ie_probe_loops_fill(ie_probe_loops *out, ie_isa isa) {
  memset(out, 0, sizeof *out);
  (void)isa; /* scalar alone on other architectures */
  ie_probe_loops_fill__scalar(out);
#if defined(__x86_64__)
  if (isa >= IE_ISA_AVX2) ie_probe_loops_fill__avx2(out);
  if (isa >= IE_ISA_AVX512) ie_probe_loops_fill__avx512(out);
  if (isa >= IE_ISA_AMX) ie_probe_loops_fill__amx(out);
#endif
}
