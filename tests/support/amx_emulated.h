/* The AMX kernels built against an emulation of the tile instructions (kernels/amx/tile.h). They need AVX-512. */
#ifndef CLOCHER_TESTS_SUPPORT_AMX_EMULATED_H
#define CLOCHER_TESTS_SUPPORT_AMX_EMULATED_H

#include "kernels/kern.h"

void ie_kernels_fill_products__amx_emulated(ie_kernels *out);
void ie_kernels_fill_gemm__amx_emulated(ie_kernels *out);
void ie_kernels_fill_attend__amx_emulated(ie_kernels *out);

#endif
