#include "support/amx_emulated.h"

#if defined(__x86_64__)

#define CLOCHER_AMX_EMULATE
#define ie_kernels_fill_attend__amx ie_kernels_fill_attend__amx_emulated
#include "../../src/kernels/amx/attend.c"

#else

void ie_kernels_fill_attend__amx_emulated(ie_kernels *out) {
  (void)out;
}

#endif
