/* safetensors: what stands in a file. Format: https://github.com/huggingface/safetensors
 *
 *   8 bytes   length n of the header, little-endian
 *   n bytes   JSON: {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}, ..,
 *             "__metadata__": {string: string}}, starts with '{', may end in spaces
 *   the rest  the data; offsets count from its start; tensors fill it without holes
 *
 * The parser takes bytes and returns a table; it opens nothing. Refused, with the file and the tensor named: a
 * header longer than the file or than 100 MB, JSON that is invalid or names a key twice, an unknown dtype, a
 * shape that is no list of non-negative integers or whose product does not match the offsets, tensors that lie
 * outside the file, overlap, or leave bytes over. */
#ifndef CLOCHER_FORMATS_SAFETENSORS_H
#define CLOCHER_FORMATS_SAFETENSORS_H

#include "base/buf.h"
#include "formats/table.h"

/* The same bound as the reference implementation's. */
#define IE_SAFETENSORS_MAX_HEADER_BYTES ((size_t)100000000)

/* Appends the tensors of a file of `size` bytes to *table, sorted by name. path names the file in messages and in
 * ie_tensor_info.file; it and bytes must outlive the table. On failure *table may hold some tensors. */
ie_status ie_safetensors_parse(const void *bytes, size_t size, const char *path, ie_table *table,
                               ie_error *error);

/* Builds the first part of a file: length, header, and spaces up to a multiple of 64 bytes, so that the data starts
 * aligned. Tensors follow in the given order without holes; their data pointers are not read. metadata (may be NULL) is
 * what stands under __metadata__, an object of strings. *data_bytes (may be NULL) is the size of the data.
 * IE_INVALID_ARGUMENT for a tensor that cannot be described. */
ie_status ie_safetensors_header(const ie_tensor_out *tensors, size_t count, const json_t *metadata,
                                ie_buf *out, uint64_t *data_bytes, ie_error *error);

/* Bytes of the data of one tensor to be written; false when dtype or shape is not valid or overflows. */
bool ie_tensor_out_bytes(const ie_tensor_out *tensor, size_t *bytes);

#endif
