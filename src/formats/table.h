/* The table of tensors that a parser fills: names are owned, data is borrowed from the file's mapping.
 *
 * A parser adds tensors in any order, checks how they lie in the file (ie_table_check_layout), and sorts the
 * table by name (ie_table_seal), which finds a name that stands twice. Lookups work on a sealed table only.
 * Owner: whoever declared it; ie_table_free releases it. All-zero is a valid empty table. */
#ifndef CLOCHER_FORMATS_TABLE_H
#define CLOCHER_FORMATS_TABLE_H

#include "clocher/tensor.h"

#include <jansson.h>
#include <stdbool.h>

typedef struct ie_table {
  ie_tensor_info *tensors; /* (count); name is owned, file and data are borrowed */
  size_t count;
  size_t capacity;
} ie_table;

/* Appends a copy of *info, its name duplicated. */
ie_status ie_table_add(ie_table *table, const ie_tensor_info *info, ie_error *error);
/* Moves all tensors of `from` to the end of `table`; `from` is empty afterwards. */
ie_status ie_table_move(ie_table *table, ie_table *from, ie_error *error);
/* Sorts by name. IE_FORMAT when a name stands twice; the message names the files. */
ie_status ie_table_seal(ie_table *table, ie_error *error);
/* The tensor of that name, or NULL. Borrowed. */
const ie_tensor_info *ie_table_find(const ie_table *table, const char *name);
void ie_table_free(ie_table *table);

/* Sorts by offset and refuses tensors of one file that share bytes. With first <= last the data must also fill
 * [first, last) without a hole, as safetensors demands. */
typedef struct ie_table_layout {
  const char *where;    /* for messages: the path of the header */
  bool contiguous;      /* no holes between first and last */
  uint64_t first, last; /* offsets in the file, used when contiguous */
} ie_table_layout;
ie_status ie_table_check_layout(ie_table *table, const ie_table_layout *layout, ie_error *error);

/* Reads a JSON array of non-negative integers into info->shape and rank, and computes info->bytes from them and
 * info->dtype, overflow-checked. info->name must be set. */
ie_status ie_table_read_shape(const json_t *shape, const char *where, ie_tensor_info *info, ie_error *error);

#endif
