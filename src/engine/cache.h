/* The memory of one layer's cache: how large its arrays are, where they lie, and what of them a saved sequence holds.
 *
 * A float layer has keys and values. An int8 layer (a full-attention layer of a state in int8; layers with a window
 * stay float) has keys, values, their scales, and a float layer of the newest positions (tensor/tensor.h). */
#ifndef CLOCHER_ENGINE_CACHE_H
#define CLOCHER_ENGINE_CACHE_H

#include "models/arch.h"

enum { IE_CACHE_SLOT_UNIT = 64 };

/* Slots of a layer: a multiple of that; window + chunk + rollback for a ring, the context for a full layer. */
int64_t ie_cache_slots(const ie_kv_spec *spec, int64_t context, int64_t chunk, int64_t rollback);

/* What the caches of a state have in common. */
typedef struct ie_cache_options {
  int64_t sequences, context, chunk, rollback;
  ie_dtype dtype;       /* IE_F32, IE_F16, IE_BF16 or IE_I8 */
  ie_dtype exact_dtype; /* of IE_I8: of windows and newest positions */
} ie_cache_options;

/* Fills *layer, and *recent where the layer is int8, with arrays from base + *bytes on, and adds their size to *bytes.
 * base NULL: only counts, pointers are not to be used. False when the size does not fit a size_t. */
bool ie_cache_place(const ie_kv_spec *spec, const ie_cache_options *options, uint8_t *base, size_t *bytes,
                    ie_kv_layer *layer, ie_kv_layer *recent);

/* One array of a layer and the rows of each head that a sequence of n tokens needs: begin <= row < end, row r in slot
 * r % cap. */
typedef struct ie_cache_part {
  const char *name; /* in a saved state, before ".LAYER" */
  ie_dtype dtype;
  uint8_t *data; /* (B, HK, cap, dim) */
  int64_t heads, cap, dim, begin, end;
} ie_cache_part;

enum { IE_CACHE_PARTS = 6 };

/* Returns their number: 2, or 6 of an int8 layer. first: the first position that a float layer holds. */
int ie_cache_parts(const ie_kv_layer *layer, int64_t first, int64_t n, ie_cache_part part[IE_CACHE_PARTS]);

/* Bytes of one row of one head. */
size_t ie_cache_row_bytes(const ie_cache_part *part);

#endif
