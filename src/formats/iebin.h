/* IEBIN v1: model.ie.json, a table of tensors, and model.ie.bin, their raw bytes.
 *
 *   {"version": 1, "dtype": "bf16", "weights_bin": "model.ie.bin",
 *    "tensors": [{"name": "..", "dtype": "BF16", "shape": [..], "nbytes": n, "offset": n}, ..]}
 *
 * "tensors" is an array, or an object keyed by name. dtype is a name (BF16, bf16, bfloat16, float32, ...), or the
 * numeric code of one of the format's writers (F64 0, F16 1, BF16 2, F32 3, INT8 4, UINT8 8, UE8 10, U8 12); absent,
 * the dtype at the top counts. nbytes may be called size_bytes, or be absent. Every tensor starts at a multiple of
 * 64 bytes; zeros may lie between them. The file of weights is named by bin, weights_bin, weightsBin, weights_path,
 * weightsPath, weights.{bin,weights_bin} or iebin.{bin,weights_bin}, relative to the JSON; absent: model.ie.bin.
 *
 * Refused, with the file and the tensor named: another version, an unknown or 4-bit dtype, a size that contradicts
 * the shape, an offset that is not aligned, tensors outside the file or overlapping, a file of weights that does
 * not lie in the folder. */
#ifndef CLOCHER_FORMATS_IEBIN_H
#define CLOCHER_FORMATS_IEBIN_H

#include "formats/table.h"

enum { IE_IEBIN_ALIGN = 64 };

/* A parsed model.ie.json. Owner: ie_iebin_free. */
typedef struct ie_iebin {
  json_t *root;
  const json_t *tensors; /* array or object */
  const char *bin_name;  /* borrowed from root, or a literal */
  const char *path;      /* of the JSON, borrowed from the caller */
} ie_iebin;

/* Checks what stands outside the tensors. path must outlive *out. On failure *out is all zero. */
ie_status ie_iebin_parse(const void *json, size_t size, const char *path, ie_iebin *out, ie_error *error);
void ie_iebin_free(ie_iebin *iebin);

/* Fills *table (sorted by name) with the tensors of a file of weights of `size` bytes, mapped at data; bin_path and
 * data must outlive the table. On failure *table may hold some tensors. */
ie_status ie_iebin_read_table(const ie_iebin *iebin, const void *data, size_t size, const char *bin_path,
                              ie_table *table, ie_error *error);

#endif
