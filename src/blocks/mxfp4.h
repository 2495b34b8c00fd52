/* MXFP4: 32 numbers of 4 bits (E2M1) that share one scale byte (E8M0).
 *
 * Source: OCP Microscaling Formats (MX) Specification v1.0, sections 5.2 and 6.3. A nibble is sign, two exponent
 * bits and one mantissa bit: 0 .5 1 1.5 2 3 4 6 and their negatives. The scale byte s stands for 2^(s - 127):
 * byte 0 is 2^-127, a denormal float, exact; byte 255 is NaN, and so is every number of its block. Columns 2i and
 * 2i + 1 stand in the low and the high nibble of byte i.
 *
 * A decoded number is exact in f32, denormals included; only what is 2^128 or more (from scale byte 253 on)
 * becomes infinity, as the product in f32 does. Thread safety: pure functions and constant tables. */
#ifndef CLOCHER_BLOCKS_MXFP4_H
#define CLOCHER_BLOCKS_MXFP4_H

#include <stdbool.h>
#include <stdint.h>

enum { IE_MXFP4_COLS = 32, IE_MXFP4_BYTES = 16 };

extern const float ie_mxfp4_values[16];  /* nibble -> value */
extern const float ie_mxfp4_scales[256]; /* scale byte -> 2^(byte - 127), NaN for 255 */

/* out[c] = value of column c, times the scale. */
void ie_mxfp4_decode_block(float out[IE_MXFP4_COLS], const uint8_t block[IE_MXFP4_BYTES], uint8_t scale);

/* Encodes 32 numbers. Scale: 2^(floor(log2(largest magnitude)) - 2), kept within bytes 0 .. 254; each number then
 * takes the nearest value, ties to the even mantissa bit, and 6 where it is larger. A block of zeros gets byte 127,
 * so that products of it meet no denormal. False, and nothing is written, when a number is NaN or infinite. */
bool ie_mxfp4_encode_block(uint8_t block[IE_MXFP4_BYTES], uint8_t *scale, const float in[IE_MXFP4_COLS]);

#endif
