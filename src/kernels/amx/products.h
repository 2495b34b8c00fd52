/* The AMX products that keep the scales of blocks apart (products_blocks.c); products.c fills the table with them. */
#ifndef CLOCHER_KERNELS_AMX_PRODUCTS_H
#define CLOCHER_KERNELS_AMX_PRODUCTS_H

#include "kernels/kern.h"

void ie_kernels_fill_products_blocks__amx(ie_kernels *out);

#endif
