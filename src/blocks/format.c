#include "blocks/format.h"

#include "blocks/int4.h"
#include "blocks/int8.h"
#include "blocks/mxfp4.h"

static const ie_wformat_info formats[IE_W_COUNT] = {
    [IE_W_F32] = {.name = "f32", .block_cols = 1, .block_bytes = {4}},
    [IE_W_F16] = {.name = "f16", .block_cols = 1, .block_bytes = {2}},
    [IE_W_BF16] = {.name = "bf16", .block_cols = 1, .block_bytes = {2}},
    [IE_W_MXFP4] = {.name = "mxfp4", .block_cols = IE_MXFP4_COLS, .block_bytes = {IE_MXFP4_BYTES, 1}},
    [IE_W_INT8] = {.name = "int8", .block_cols = IE_INT8_COLS, .block_bytes = {IE_INT8_COLS, 2}},
    [IE_W_INT4] = {.name = "int4", .block_cols = IE_INT4_COLS, .block_bytes = {IE_INT4_BYTES, 2}},
};

const ie_wformat_info *ie_wformat_describe(ie_wformat format) {
  return &formats[format];
}
