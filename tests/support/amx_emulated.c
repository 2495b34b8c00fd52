#include "support/amx_emulated.h"

#if defined(__x86_64__)

#define CLOCHER_AMX_EMULATE
#define ie_kernels_fill_products_blocks__amx ie_kernels_fill_products_blocks__amx_emulated
#define ie_kernels_fill_products__amx        ie_kernels_fill_products__amx_emulated
#include "../../src/kernels/amx/products.c"

#else

void ie_kernels_fill_products__amx_emulated(ie_kernels *out) {
  (void)out;
}

#endif
