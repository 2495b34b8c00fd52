/* Weights that stay in memory under a limit: read once, past the page cache, to where they were mapped.
 *
 * Pages of the process's own take the place of the mapping's pages, so that no weight's address changes. A page at the
 * edge of a tensor also holds what lies beside it in the file: it is read whole, as it was mapped whole. */
#ifndef CLOCHER_ENGINE_RESIDENT_H
#define CLOCHER_ENGINE_RESIDENT_H

#include "base/reader.h"
#include "engine/placement.h"

typedef struct memory_span {
  const uint8_t *data;
  size_t bytes;
} memory_span;

/* The whole pages within [data, data + bytes). */
memory_span ie_resident_inner(const void *data, size_t bytes);
/* The pages that hold it. */
memory_span ie_resident_outer(const void *data, size_t bytes);

/* Loads all tensors that the model uses but its experts and, where the placement says so, its embedding. The files of
 * the checkpoint are the reader's, in their order. */
ie_status ie_resident_load(const ie_model *model, const ie_placement *placement, ie_reader *reader,
                           ie_error *error);

#endif
