/* Weight encodings: what the bytes of one weight matrix mean. A weight is up to four byte arrays ("parts") and
 * one immutable descriptor; the number that stands at (row, col) is defined by blocks/ alone. */
#ifndef CLOCHER_BLOCKS_FORMAT_H
#define CLOCHER_BLOCKS_FORMAT_H

#include <stddef.h>
#include <stdint.h>

typedef enum ie_wformat {
  IE_W_F32,   /* part 0: f32 (rows, cols) */
  IE_W_F16,   /* part 0: f16 (rows, cols) */
  IE_W_BF16,  /* part 0: bf16 (rows, cols) */
  IE_W_MXFP4, /* part 0: u8 (rows, cols/32, 16), low nibble = even column; part 1: u8 E8M0 (rows, cols/32) */
  IE_W_INT8,  /* blocks/int8.h; part 0: i8 (rows, G, 32); part 1: f16 (rows, G), G = cols/32 rounded up */
  IE_W_INT4,  /* blocks/int4.h; part 0: u8 (rows, G, 32); part 1: f16 (rows, G), G = cols/64 rounded up */
  IE_W_COUNT
} ie_wformat;

typedef struct ie_wformat_info {
  const char *name;   /* "mxfp4" */
  int block_cols;     /* columns of one block; a row is whole blocks (of MXFP4, cols is a multiple of it) */
  int block_bytes[4]; /* bytes of one block in each part; 0: the part does not exist */
} ie_wformat_info;

const ie_wformat_info *ie_wformat_describe(ie_wformat format);

/* Bytes of one row of `cols` columns in a part. */
static inline size_t ie_wformat_row_bytes(ie_wformat format, int part, int64_t cols) {
  const ie_wformat_info *info = ie_wformat_describe(format);
  return (size_t)((cols + info->block_cols - 1) / info->block_cols) * (size_t)info->block_bytes[part];
}

#endif
