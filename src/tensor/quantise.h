/* Quantising a float matrix to INT8 or INT4, as blocks/ encodes: rows are shared out over the team. The bytes do not
 * depend on the number of threads or the instruction set. */
#ifndef CLOCHER_TENSOR_QUANTISE_H
#define CLOCHER_TENSOR_QUANTISE_H

#include "base/team.h"
#include "tensor/tensor.h"

/* Bytes of a matrix (rows, cols) in a quantised format: the codes, padded to 64 bytes, then the scales. */
size_t ie_quantised_bytes(ie_wformat format, int64_t rows, int64_t cols);

/* Called with each range of rows when their source has been read for the last time; from any thread. */
typedef void ie_rows_done_fn(const void *source, size_t bytes);

/* Encodes w (f32, f16 or bf16, one matrix) into `memory` (ie_quantised_bytes, 64-byte aligned) and makes w a view of
 * it: format, parts and strides; its kernels are chosen anew by the caller. done may be NULL. IE_FORMAT, with the
 * first row at fault, for a number that is NaN, infinite or too large for the format; w is unchanged then. */
ie_status ie_weight_quantise(ie_team *team, const ie_kernels *kernels, ie_weight *w, ie_wformat format,
                             void *memory, ie_rows_done_fn *done, ie_error *error);

#endif
