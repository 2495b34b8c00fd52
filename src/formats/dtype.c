#include "clocher/tensor.h"

#include <string.h>

static const struct {
  const char *name;
  size_t bytes;
} dtypes[IE_DTYPE_COUNT] = {
    [IE_DTYPE_NONE] = {"none", 0}, [IE_BOOL] = {"BOOL", 1}, [IE_U8] = {"U8", 1},
    [IE_I8] = {"I8", 1},           [IE_U16] = {"U16", 2},   [IE_I16] = {"I16", 2},
    [IE_U32] = {"U32", 4},         [IE_I32] = {"I32", 4},   [IE_U64] = {"U64", 8},
    [IE_I64] = {"I64", 8},         [IE_F16] = {"F16", 2},   [IE_BF16] = {"BF16", 2},
    [IE_F32] = {"F32", 4},         [IE_F64] = {"F64", 8},   [IE_F8_E4M3] = {"F8_E4M3", 1},
    [IE_F8_E5M2] = {"F8_E5M2", 1},
};

size_t ie_dtype_bytes(ie_dtype dtype) {
  return (unsigned)dtype < IE_DTYPE_COUNT ? dtypes[dtype].bytes : 0;
}

const char *ie_dtype_name(ie_dtype dtype) {
  return dtypes[(unsigned)dtype < IE_DTYPE_COUNT ? dtype : 0].name;
}

ie_dtype ie_dtype_from_name(const char *name) {
  for (int i = IE_DTYPE_NONE + 1; i < IE_DTYPE_COUNT; i++)
    if (name && strcmp(name, dtypes[i].name) == 0) return (ie_dtype)i;
  return IE_DTYPE_NONE;
}
