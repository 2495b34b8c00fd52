/* model.safetensors.index.json. No file that it names leads out of its folder.
 * Covers: src/formats/shard_index.c
 * Length: 4096 */
#include "formats/shard_index.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ie_shard_index index;
  ie_error error = {0};
  if (ie_shard_index_parse(data, size, "index", &index, &error) == IE_OK) {
    if (index.file_count == 0 || index.file_count > json_object_size(index.weight_map)) abort();
    for (size_t i = 0; i < index.file_count; i++) {
      const char *name = index.files[i];
      if (!name[0] || strchr(name, '/') || strcmp(name, "..") == 0 || strcmp(name, ".") == 0) abort();
      if (i > 0 && strcmp(index.files[i - 1], name) >= 0) abort();
    }
  } else if (!error.message[0] || index.root || index.files) {
    abort();
  }
  ie_shard_index_free(&index);
  return 0;
}
