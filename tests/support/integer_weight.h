/* Stacks of weights in the integer formats, made of any codes and read by the definition of the format. */
#ifndef CLOCHER_TESTS_SUPPORT_INTEGER_WEIGHT_H
#define CLOCHER_TESTS_SUPPORT_INTEGER_WEIGHT_H

#include "tensor/tensor.h"

/* Fills both parts, contiguous over rows and experts, with any codes; scales of either sign, powers of two with which
 * the largest number is 1/2 to 4; zeros beyond the last column. w: IE_W_INT8 or IE_W_INT4. */
void integer_weight_fill(uint64_t stream, const ie_weight *w, uint8_t *const part[2]);

/* The number at (row, col) of an expert. */
double integer_weight_at(const ie_weight *w, int64_t expert, int64_t row, int64_t col);

#endif
