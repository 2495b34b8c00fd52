/* The numbers of a weight, decoded: what blocks/ says of one block, for a range of columns of a row. Products that
 * compute from the encoded bytes do not come here. */
#ifndef CLOCHER_KERNELS_WEIGHT_COLS_H
#define CLOCHER_KERNELS_WEIGHT_COLS_H

#include "kernels/kern.h"

/* ie_kernels.weight_cols, by its definition; here col may be any multiple of 32. */
void ie_weight_cols__scalar(float *out, const ie_wview *w, int64_t row, int64_t col, int64_t n);

#endif
