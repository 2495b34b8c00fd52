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

/* How an encoder chooses the scale of a block. Within a scale each number takes the nearest value, ties to the even
 * mantissa bit, and 6 where it is larger. A block of zeros gets byte 127, so that products of it meet no denormal.
 *
 * IE_MXFP4_OCP: 2^(floor(log2(largest magnitude)) - 2), kept within bytes 0 .. 252 (OCP specification, section 6.3).
 * IE_MXFP4_SEARCH: the scale of the least squared error of all whose block is finite; where two are equal, OCP's if it
 * is one of them. Only OCP's exponent e and its neighbours can be it. In units of 2^e the largest number is in [4, 8):
 * the values under e + 2 within that range are among those under e + 1; under e - 2 that number alone is off by 2.5 or
 * more, which the at most 0.25 of each of the 31 others cannot win back.
 *
 * Both give numbers that are MXFP4 already (what decode returned) back as they were, under a scale of their own. */
typedef enum ie_mxfp4_rule { IE_MXFP4_OCP, IE_MXFP4_SEARCH } ie_mxfp4_rule;

/* Encodes 32 numbers. False, and nothing is written, when one is NaN or infinite. */
bool ie_mxfp4_encode_block(uint8_t block[IE_MXFP4_BYTES], uint8_t *scale, const float in[IE_MXFP4_COLS],
                           ie_mxfp4_rule rule);

/* Encodes `count` numbers, a multiple of 32, one block after the other: blocks (count / 32, 16), scales (count / 32).
 * Returns -1, or the index of the first block with NaN or infinity; those before it are written. */
int64_t ie_mxfp4_encode(uint8_t *blocks, uint8_t *scales, const float *in, int64_t count, ie_mxfp4_rule rule);

#endif
