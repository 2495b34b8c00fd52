/* model.safetensors.index.json: which file of a sharded checkpoint holds which tensor.
 *   {"metadata": {..}, "weight_map": {"tensor name": "model-00001-of-00003.safetensors", ..}}
 * A file is named relative to the index and must lie in its folder: a name with a '/' or equal to ".." is refused.
 * Owner: ie_shard_index_free; the names are borrowed from the index. */
#ifndef CLOCHER_FORMATS_SHARD_INDEX_H
#define CLOCHER_FORMATS_SHARD_INDEX_H

#include "clocher/status.h"

#include <jansson.h>
#include <stddef.h>

typedef struct ie_shard_index {
  json_t *root;
  const json_t *weight_map; /* tensor name -> file name, all strings */
  const char **files;       /* (file_count) each file once, sorted */
  size_t file_count;
} ie_shard_index;

/* path names the index in messages. On failure *out is all zero. */
ie_status ie_shard_index_parse(const void *bytes, size_t size, const char *path, ie_shard_index *out,
                               ie_error *error);
void ie_shard_index_free(ie_shard_index *index);

#endif
