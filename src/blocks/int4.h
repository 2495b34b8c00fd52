/* INT4: 64 numbers of four bits that share one f16 scale; symmetric, no zero point.
 *
 * A number is scale * (nibble - 8), so integers -8 .. 7; the scale may be negative. Columns 2i and 2i + 1 of a block
 * stand in the low and the high nibble of byte i, as in MXFP4. A weight (rows, cols) is two arrays, nibbles u8
 * (rows, G, 32) and scales f16 little-endian (rows, G), with G = cols / 64 rounded up: a row is whole blocks, and
 * nibbles beyond its last column are 8, which is zero. docs/formats.md shows the bytes of an example.
 *
 * Nibbles are offset by 8 and not two's complement, because the units that multiply bytes take one operand unsigned:
 * a nibble goes in as it is, and 8 times the sum of the activations comes off. The sign of the scale gives the
 * number of largest magnitude the code -8: 22% less squared error than codes -7 .. 7 on Gaussian weights (0.0090 of
 * their power instead of 0.0116), for the same bytes.
 *
 * A decoded number is exact in f32. Thread safety: pure functions and constant tables. */
#ifndef CLOCHER_BLOCKS_INT4_H
#define CLOCHER_BLOCKS_INT4_H

#include <stdbool.h>
#include <stdint.h>

enum { IE_INT4_COLS = 64, IE_INT4_BYTES = 32 };

extern const float ie_int4_values[16]; /* nibble -> nibble - 8 */

/* out[c] = value of column c, times the scale (f16). */
void ie_int4_decode_block(float out[IE_INT4_COLS], const uint8_t block[IE_INT4_BYTES], uint16_t scale);

/* Encodes 64 numbers. m: the first number of the largest magnitude. Scale: sign opposite to m's, magnitude the
 * smallest f16 with 8 * |scale| >= |m|; each code is x / scale rounded to nearest even, and 7 where that is 8. A block
 * of zeros has scale 0 and nibbles 8. False, and nothing is written, when a number is NaN or infinite or the scale
 * would not fit f16 (magnitudes above 8 * 65504). */
bool ie_int4_encode_block(uint8_t block[IE_INT4_BYTES], uint16_t *scale, const float in[IE_INT4_COLS]);

#endif
