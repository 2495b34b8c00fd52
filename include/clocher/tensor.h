/* Tensors in files: element types, and safetensors files that are read in place or written.
 *
 * A tensor file maps its bytes and never copies them: what ie_tensor_file_get returns points into the mapping
 * and lives as long as the file is open. Format: https://github.com/huggingface/safetensors (an 8-byte little-
 * endian header length, a JSON header, the data). Everything a header claims is checked against the file.
 *
 * Thread safety: an open file may be read by any number of threads; a writer belongs to one thread. */
#ifndef CLOCHER_TENSOR_H
#define CLOCHER_TENSOR_H

#include "clocher/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* Element types, by safetensors' names. */
typedef enum ie_dtype {
  IE_DTYPE_NONE = 0,
  IE_BOOL,
  IE_U8,
  IE_I8,
  IE_U16,
  IE_I16,
  IE_U32,
  IE_I32,
  IE_U64,
  IE_I64,
  IE_F16,
  IE_BF16,
  IE_F32,
  IE_F64,
  IE_F8_E4M3,
  IE_F8_E5M2,
  IE_DTYPE_COUNT
} ie_dtype;

/* Bytes of one element; 0 for IE_DTYPE_NONE. */
size_t ie_dtype_bytes(ie_dtype dtype);
/* safetensors' name ("F32", "BF16", ...); never NULL. */
const char *ie_dtype_name(ie_dtype dtype);
/* The type of that name, or IE_DTYPE_NONE. */
ie_dtype ie_dtype_from_name(const char *name);

enum { IE_MAX_RANK = 8 };

/* One tensor of a file. Row-major: shape is outermost first. */
typedef struct ie_tensor_info {
  const char *name; /* borrowed from the file */
  ie_dtype dtype;
  int rank;
  int64_t shape[IE_MAX_RANK];
  const void *data; /* (bytes) in the mapping; aligned to the element when the file was written properly */
  size_t bytes;
  const char *file; /* path of the file that holds it, borrowed */
  uint64_t offset;  /* of the first byte in that file */
} ie_tensor_info;

typedef struct ie_tensor_file ie_tensor_file;

/* Opens one .safetensors file. IE_IO, or IE_FORMAT with the tensor and the reason. */
ie_status ie_tensor_file_open(const char *path, ie_tensor_file **out, ie_error *error);
void ie_tensor_file_free(ie_tensor_file *file);
size_t ie_tensor_file_count(const ie_tensor_file *file);
/* The i-th tensor in the order of their names, 0 <= i < count. Borrowed. */
const ie_tensor_info *ie_tensor_file_at(const ie_tensor_file *file, size_t i);
/* The tensor of that name, or NULL. Borrowed. */
const ie_tensor_info *ie_tensor_file_get(const ie_tensor_file *file, const char *name);

/* One tensor to be written. data stays the caller's. */
typedef struct ie_tensor_out {
  const char *name;
  ie_dtype dtype;
  int rank;
  int64_t shape[IE_MAX_RANK];
  const void *data; /* row-major, product(shape) elements */
} ie_tensor_out;

/* Writes a safetensors file atomically. The data starts at a multiple of 64 bytes; the format allows no holes, so
 * tensors follow each other by the width of their element type, widest first, else in the given order: each is
 * aligned to its element. IE_INVALID_ARGUMENT for a name given twice or a shape that is not valid. */
ie_status ie_tensor_file_write(const char *path, const ie_tensor_out *tensors, size_t count, ie_error *error);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
