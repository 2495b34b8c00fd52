/* A checkpoint: all tensors of a model directory in one table, whatever their container.
 *
 * All containers are mapped; no tensor is copied, but for views in PyTorch's files whose elements do not follow each
 * other (formats/torch_pt.h). Weights are looked for in DIR, DIR/hf, DIR/hf/original and
 * DIR/original, in this order; the first folder that holds a container wins. In one folder, in this order:
 *   1. the shards that model.safetensors.index.json names (each tensor where it says, none missing, none twice);
 *   2. model.safetensors;
 *   3. model-xxxxx-of-xxxxx.safetensors without an index, complete (shard 0 is published by some and optional);
 *   4. IEBIN v1: model.ie.json with model.ie.bin (formats/iebin.h);
 *   5. PyTorch's files, in the same order: those that pytorch_model.bin.index.json names, pytorch_model.bin, a
 *      complete pytorch_model-xxxxx-of-xxxxx.bin;
 *   6. nanochat's own model_NNNNNN.pt, of several the one of the highest number; its config is meta_NNNNNN.json.
 * So safetensors win over IEBIN that lies beside them: IEBIN is written from them and may be older. IEBIN in DIR
 * wins over anything in DIR/hf. When no folder has any of these, a folder with exactly one other *.safetensors
 * file is taken; otherwise the error lists what was found. reference.safetensors beside model.safetensors is thus
 * never read as weights. A container that is there but damaged is an error, never a reason to look further.
 *
 * A tensor's data is aligned to its element when its file was written properly; a reader that needs alignment
 * checks it, since old writers of safetensors did not care.
 * Owner: ie_checkpoint_free releases the mappings; every ie_tensor_info points into them.
 * Thread safety: read-only after open. */
#ifndef CLOCHER_FORMATS_CHECKPOINT_H
#define CLOCHER_FORMATS_CHECKPOINT_H

#include "clocher/tensor.h"

#include <stdbool.h>

typedef enum ie_container {
  IE_CONTAINER_SAFETENSORS,
  IE_CONTAINER_IEBIN,
  IE_CONTAINER_TORCH, /* pytorch_model.bin */
  IE_CONTAINER_NATIVE /* nanochat's model_NNNNNN.pt */
} ie_container;

typedef struct ie_checkpoint ie_checkpoint;

ie_status ie_checkpoint_open(const char *dir, ie_checkpoint **out, ie_error *error);
/* IEBIN from files that the caller names: json NULL is DIR/model.ie.json, bin NULL is what the JSON names. Paths are
 * used as they are. config.json and the like are looked for beside the JSON, then as ever. */
ie_status ie_checkpoint_open_iebin(const char *dir, const char *json, const char *bin, ie_checkpoint **out,
                                   ie_error *error);
/* Whether there is anything of a checkpoint where ie_checkpoint_open looks: a file that by its name holds weights, an
 * index, a model.ie.json; whole or not, a link that leads nowhere too. False when there is no such folder. So a caller
 * whose open failed with IE_IO can tell "there is no model" from "there is one that is not whole". */
ie_status ie_checkpoint_present(const char *dir, bool *present, ie_error *error);
/* A checkpoint without a tensor: dir holds a config.json, and what is trained from it begins from nothing. */
ie_status ie_checkpoint_open_empty(const char *dir, ie_checkpoint **out, ie_error *error);
void ie_checkpoint_free(ie_checkpoint *checkpoint);
ie_container ie_checkpoint_container(const ie_checkpoint *checkpoint);
/* The folder that holds the weights (DIR, DIR/hf, DIR/hf/original or DIR/original). Borrowed. */
const char *ie_checkpoint_dir(const ie_checkpoint *checkpoint);
/* The file that describes the model: "config.json", or "meta_000700.json" beside nanochat's own files. Borrowed. */
const char *ie_checkpoint_config_name(const ie_checkpoint *checkpoint);
size_t ie_checkpoint_count(const ie_checkpoint *checkpoint);
/* In the order of the names, 0 <= i < count. Borrowed. */
const ie_tensor_info *ie_checkpoint_at(const ie_checkpoint *checkpoint, size_t i);
/* NULL when there is none of that name. */
const ie_tensor_info *ie_checkpoint_find(const ie_checkpoint *checkpoint, const char *name);

/* The tensor's data lies in memory of the checkpoint's own, not in a mapped file. */
bool ie_checkpoint_is_copied(const ie_checkpoint *checkpoint, const ie_tensor_info *tensor);
size_t ie_checkpoint_copied_bytes(const ie_checkpoint *checkpoint);

/* The files that are mapped, 0 <= i < count: path and size. Borrowed. */
size_t ie_checkpoint_file_count(const ie_checkpoint *checkpoint);
const char *ie_checkpoint_file_at(const ie_checkpoint *checkpoint, size_t i, size_t *bytes);

/* Which of these files holds an address of a tensor's data, and where in it. False for another address. */
bool ie_checkpoint_locate(const ie_checkpoint *checkpoint, const void *data, size_t *file, uint64_t *offset);

/* From now on the files are read here and there (ie_map_scattered). */
void ie_checkpoint_scattered(const ie_checkpoint *checkpoint);
/* Data of a mapped tensor that was read for the last time leaves memory and page cache. Nothing for another address. */
void ie_checkpoint_forget(const ie_checkpoint *checkpoint, const void *data, size_t bytes);

/* The same of whole files: of what the system read ahead around such tensors too. */
void ie_checkpoint_forget_all(const ie_checkpoint *checkpoint);

/* Where a file such as config.json lies: the weights' folder, else DIR, DIR/hf, DIR/hf/original, DIR/original.
 * *out is fresh memory; NULL (and IE_OK) when it is nowhere. */
ie_status ie_checkpoint_path(const ie_checkpoint *checkpoint, const char *name, char **out, ie_error *error);

#endif
