/* Writes a model directory in the layout of the Hugging Face hub: model.safetensors, or shards
 * model-00001-of-00003.safetensors with model.safetensors.index.json, and the small files beside the weights.
 *
 * Everything is written into a staging folder within the directory and flushed to the disk; ie_model_out_commit renames
 * the files into their places, those that name the weights last, and removes weights of an earlier model that the new
 * ones do not replace. A kill before that leaves an earlier model as it was. */
#ifndef CLOCHER_FORMATS_CHECKPOINT_WRITE_H
#define CLOCHER_FORMATS_CHECKPOINT_WRITE_H

#include "base/folder.h"
#include "formats/tensor_stream.h"

/* The largest file of weights, when none is given; as transformers' (4.x). A larger tensor has a file of its own. */
#define IE_SHARD_BYTES UINT64_C(5000000000)

typedef struct ie_model_out {
  char *dir; /* owned */
  ie_staging staging;
} ie_model_out;

/* dir is made when missing. On failure *out is all zero. */
ie_status ie_model_out_open(const char *dir, ie_model_out *out, ie_error *error);
/* Writes all weights. shard_bytes 0: IE_SHARD_BYTES. Tensors are put into files in the given order. */
ie_status ie_model_out_weights(ie_model_out *out, const ie_tensor_out *tensors, size_t count,
                               uint64_t shard_bytes, const ie_tensor_source *source, ie_error *error);
/* Writes a file of text. */
ie_status ie_model_out_text(ie_model_out *out, const char *name, const void *text, size_t size,
                            ie_error *error);
/* Copies what stands beside the weights of a model in `dir`: config.json, generation_config.json, the tokenizer's and
 * the chat template's files. Not those that `out` holds already. A folder without any is no error. */
ie_status ie_model_out_copy(ie_model_out *out, const char *dir, ie_error *error);
/* Puts the files in their places. Closes `out` in any case. */
ie_status ie_model_out_commit(ie_model_out *out, ie_error *error);
/* Removes what was staged. Does nothing once committed. */
void ie_model_out_abandon(ie_model_out *out);

#endif
