#if defined(__x86_64__)

#define CLOCHER_AMX_EMULATE
#define ie_kernels_fill_products_blocks__amx ie_kernels_fill_products_blocks__amx_emulated
#include "../../src/kernels/amx/products_blocks.c"

#else

typedef int nothing;

#endif
