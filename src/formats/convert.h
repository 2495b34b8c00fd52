/* Numbers of tensors in files to f32 and back. */
#ifndef CLOCHER_FORMATS_CONVERT_H
#define CLOCHER_FORMATS_CONVERT_H

#include "clocher/tensor.h"

#include <stdbool.h>

/* IE_F32, IE_F16 and IE_BF16: the types below take no other. */
bool ie_convert_knows(ie_dtype dtype);
/* out[i] = in[i], exactly. `in` need not be aligned. */
void ie_convert_to_f32(ie_dtype dtype, const void *in, int64_t count, float *out);
/* Rounds to nearest even. Returns -1, or the index of the first number that is not finite in that type; then `out` is
 * filled up to it. out is aligned to the type. */
int64_t ie_convert_from_f32(ie_dtype dtype, const float *in, int64_t count, void *out);

#endif
