/* A checkpoint of PyTorch. An input that starts with 'P' is a whole archive; any other is the pickle of one with two
 * storages, so that the fuzzer does not have to learn what a zip directory is.
 * Covers: src/formats/torch_pt.c src/formats/zip.c src/base/pickle.c
 * Length: 4096 */
#include "base/buf.h"
#include "formats/torch_pt.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(ie_buf *buf, uint64_t value, int n) {
  for (int i = 0; i < n; i++) ie_buf_append_char(buf, (char)(i < 8 ? value >> (8 * i) : 0));
}

static void entry_add(ie_buf *file, ie_buf *directory, const char *name, const void *data, size_t size) {
  put(directory, 0x02014b50, 4);
  put(directory, 0, 16);
  put(directory, size, 4);
  put(directory, size, 4);
  put(directory, strlen(name), 2);
  put(directory, 0, 12);
  put(directory, file->size, 4);
  ie_buf_append_str(directory, name);
  put(file, 0x04034b50, 4);
  put(file, 0, 22);
  put(file, strlen(name), 2);
  put(file, 0, 2);
  ie_buf_append_str(file, name);
  ie_buf_append(file, data, size);
}

static void archive_make(ie_buf *file, const uint8_t *pickle, size_t size) {
  static const uint8_t storage[48] = {1, 2, 3};
  ie_buf directory = {0};
  entry_add(file, &directory, "m/data.pkl", pickle, size);
  entry_add(file, &directory, "m/data/0", storage, 48);
  entry_add(file, &directory, "m/data/1", storage, 2);
  size_t start = file->size;
  ie_buf_append(file, directory.data, directory.size);
  put(file, 0x06054b50, 4);
  put(file, 0, 4);
  put(file, 3, 2);
  put(file, 3, 2);
  put(file, directory.size, 4);
  put(file, start, 4);
  put(file, 0, 2);
  ie_buf_free(&directory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ie_buf made = {0};
  if (size && data[0] != 'P') {
    archive_make(&made, data, size);
    if (made.failed) abort();
  }
  const size_t file_size = made.size ? made.size : size;
  uint8_t *file = malloc(file_size ? file_size : 1); /* of exactly its size */
  if (!file) abort();
  if (file_size) memcpy(file, made.size ? (const uint8_t *)made.data : data, file_size);
  ie_torch_pt pt;
  ie_error error = {0};
  ie_status status = ie_torch_pt_parse(file, file_size, "input", &pt, &error);
  if (status == IE_OK) {
    uint64_t total = 0;
    for (size_t i = 0; i < pt.table.count; i++) {
      const ie_tensor_info *t = &pt.table.tensors[i];
      size_t bytes = ie_dtype_bytes(t->dtype);
      for (int k = 0; k < t->rank; k++) bytes *= (size_t)t->shape[k];
      if (bytes != t->bytes || t->offset > file_size) abort();
      for (size_t k = 0; k < t->bytes; k++) total += ((const uint8_t *)t->data)[k];
      if (ie_table_find(&pt.table, t->name) != t) abort();
    }
    if (total == UINT64_MAX || pt.copied_bytes > file_size) abort(); /* keeps the sum */
  } else if (!error.message[0] || pt.table.count || pt.copies) {
    abort();
  }
  ie_torch_pt_free(&pt);
  free(file);
  ie_buf_free(&made);
  return 0;
}
