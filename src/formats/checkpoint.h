/* A checkpoint: all tensors of a model directory in one table, whatever their container.
 *
 * Containers: one .safetensors file, shards with model.safetensors.index.json, IEBIN v1 (model.ie.json and
 * model.ie.bin, spec/clocher.md 2.1). All are mapped; no tensor is copied. Weights are looked for in DIR,
 * DIR/hf, and DIR/hf/original.
 * Owner: ie_checkpoint_free releases the mappings; every ie_tensor_info points into them.
 * Thread safety: read-only after open. */
#ifndef CLOCHER_FORMATS_CHECKPOINT_H
#define CLOCHER_FORMATS_CHECKPOINT_H

#include "clocher/tensor.h"

typedef enum ie_container { IE_CONTAINER_SAFETENSORS, IE_CONTAINER_IEBIN } ie_container;

typedef struct ie_checkpoint ie_checkpoint;

ie_status ie_checkpoint_open(const char *dir, ie_checkpoint **out, ie_error *error);
void ie_checkpoint_free(ie_checkpoint *checkpoint);
ie_container ie_checkpoint_container(const ie_checkpoint *checkpoint);
/* The folder that holds the weights (DIR, DIR/hf or DIR/hf/original). Borrowed. */
const char *ie_checkpoint_dir(const ie_checkpoint *checkpoint);
size_t ie_checkpoint_count(const ie_checkpoint *checkpoint);
/* In the order of the names, 0 <= i < count. Borrowed. */
const ie_tensor_info *ie_checkpoint_at(const ie_checkpoint *checkpoint, size_t i);
/* NULL when there is none of that name. */
const ie_tensor_info *ie_checkpoint_find(const ie_checkpoint *checkpoint, const char *name);

/* Where a file such as config.json lies: the weights' folder, else DIR, DIR/hf, DIR/hf/original. Fresh memory;
 * NULL when it is nowhere (or memory is out). */
char *ie_checkpoint_path(const ie_checkpoint *checkpoint, const char *name);

#endif
