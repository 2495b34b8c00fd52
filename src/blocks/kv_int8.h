/* Keys and values in int8: symmetric, x = q s with q of -127 .. 127 and s in bf16. Keys share a scale per channel over
 * IE_KV_GROUP positions, values per position over the head (KIVI, Liu et al. 2024: keys have a few channels that are
 * large at every position, values have none).
 *
 * s is max|x| / 127 rounded up to bf16, so that nothing is clipped and any f32 can be held; q = rint(x / s), ties to
 * even, off by at most s / 2. q s is exact in f32: 7 bits times 8. A channel or row below 127 * 2^-120 becomes zeros;
 * one with a NaN or an infinity gets the scale NaN, so that all of it is read as NaN: never hidden. Pure functions. */
#ifndef CLOCHER_BLOCKS_KV_INT8_H
#define CLOCHER_BLOCKS_KV_INT8_H

#include <stdint.h>

enum { IE_KV_GROUP = 64 };

/* Keys of one group: x (IE_KV_GROUP, n), row p at x + p * x_stride; q likewise; scale (n). */
void ie_kv_int8_keys(int8_t *q, int64_t q_stride, uint16_t *scale, const float *x, int64_t x_stride,
                     int64_t n);

/* Values of one position: x (n). Returns the scale. */
uint16_t ie_kv_int8_values(int8_t *q, const float *x, int64_t n);

#endif
