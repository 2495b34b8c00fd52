/* INT8: 32 numbers of one byte that share one f16 scale; symmetric, no zero point.
 *
 * A number is scale * code. Codes are two's complement; the encoder writes -127 .. 127, and -128 decodes to what it
 * says. Column c of a block is its byte c. A weight (rows, cols) is two arrays, codes i8 (rows, G, 32) and scales f16
 * little-endian (rows, G), with G = cols / 32 rounded up: a row is whole blocks, and codes beyond its last column
 * are 0. docs/formats.md shows the bytes of an example.
 *
 * A decoded number is exact in f32: 11 bits of scale times 8 bits of code. Thread safety: pure functions. */
#ifndef CLOCHER_BLOCKS_INT8_H
#define CLOCHER_BLOCKS_INT8_H

#include <stdbool.h>
#include <stdint.h>

enum { IE_INT8_COLS = 32 };

/* out[c] = scale * code of column c; scale is f16. */
void ie_int8_decode_block(float out[IE_INT8_COLS], const int8_t block[IE_INT8_COLS], uint16_t scale);

/* Encodes 32 numbers. Scale: the smallest f16 with 127 * scale >= the largest magnitude, so that nothing is clipped
 * and no number is off by more than half a scale, subnormal scales included; each code is x / scale rounded to
 * nearest even. A block of zeros has scale 0. False, and nothing is written, when a number is NaN or infinite or the
 * scale would not fit f16 (magnitudes above 127 * 65504). */
bool ie_int8_encode_block(int8_t block[IE_INT8_COLS], uint16_t *scale, const float in[IE_INT8_COLS]);

#endif
