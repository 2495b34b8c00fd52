/* An id file with a right checksum (it is set here, so that what is behind it is reached). What is accepted is read to
 * the last token.
 * Covers: src/train/id_file.c
 * Length: 4096 */
#include "train/id_file.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ie_error error = {0};
  ie_id_file file;
  uint8_t *bytes = aligned_alloc(8, (size + 8) & ~(size_t)7);
  if (!bytes) abort();
  if (size) memcpy(bytes, data, size);
  (void)ie_id_file_is(bytes, size);
  if (size >= sizeof(ie_id_header) && size % 8 == 0 && size / 8 % 2) {
    uint64_t sum = ie_id_file_sum(bytes, size);
    memcpy(bytes + offsetof(ie_id_header, checksum), &sum, sizeof sum);
  }
  if (ie_id_file_parse(bytes, size, "fuzz", &file, &error) != IE_OK) {
    if (!error.message[0] || file.header) abort();
    free(bytes);
    return 0;
  }
  int64_t targets = 0;
  for (uint64_t i = 0; i < file.header->documents; i++) {
    if (file.index[i] >= file.index[i + 1]) abort();
    for (uint64_t k = file.index[i]; k < file.index[i + 1]; k++) {
      int32_t id = ie_id_file_token(&file, (int64_t)k);
      if (id < 0 || (uint32_t)id >= file.header->vocab) abort();
      targets += ie_id_file_is_target(&file, (int64_t)k);
    }
  }
  if (targets > (int64_t)file.header->tokens) abort();
  free(bytes);
  return 0;
}
