/* model.ie.json over 512 bytes of weights. What is accepted lies in them, aligned and without overlap.
 * Covers: src/formats/iebin.c
 * Length: 4096 */
#include "formats/iebin.h"

#include <stdlib.h>
#include <string.h>

enum { BIN_BYTES = 512 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void table_check(const ie_table *table, const uint8_t *bin) {
  uint8_t used[BIN_BYTES] = {0};
  for (size_t i = 0; i < table->count; i++) {
    const ie_tensor_info *t = &table->tensors[i];
    if (t->offset % IE_IEBIN_ALIGN != 0 || t->offset > BIN_BYTES || t->bytes > BIN_BYTES - t->offset) abort();
    if ((const uint8_t *)t->data != bin + t->offset) abort();
    for (size_t k = 0; k < t->bytes; k++)
      if (used[t->offset + k]++) abort();
    if (ie_table_find(table, t->name) != t) abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint8_t *bin = calloc(1, BIN_BYTES);
  ie_iebin iebin;
  ie_table table = {0};
  ie_error error = {0};
  if (!bin) abort();
  ie_status status = ie_iebin_parse(data, size, "model.ie.json", &iebin, &error);
  if (status == IE_OK) {
    if (strchr(iebin.bin_name, '/') || strcmp(iebin.bin_name, "..") == 0) abort();
    status = ie_iebin_read_table(&iebin, bin, BIN_BYTES, "model.ie.bin", &table, &error);
  }
  if (status == IE_OK)
    table_check(&table, bin);
  else if (!error.message[0])
    abort();
  ie_table_free(&table);
  ie_iebin_free(&iebin);
  free(bin);
  return 0;
}
