/* A safetensors file. What is accepted lies in the file, and describes itself again.
 * Covers: src/formats/safetensors.c src/formats/table.c src/formats/dtype.c
 * Length: 4096 */
#include "formats/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The header of the accepted tensors, written anew over the same data, is accepted and means the same. */
static void write_again(const ie_table *table) {
  ie_tensor_out *out = calloc(table->count + 1, sizeof *out);
  uint64_t data_bytes = 0;
  ie_buf file = {0};
  ie_table again = {0};
  ie_error error;
  if (!out) abort();
  for (size_t i = 0; i < table->count; i++) {
    const ie_tensor_info *t = &table->tensors[i];
    out[i] = (ie_tensor_out){.name = t->name, .dtype = t->dtype, .rank = t->rank, .data = t->data};
    memcpy(out[i].shape, t->shape, sizeof out[i].shape);
  }
  if (ie_safetensors_header(out, table->count, NULL, &file, &data_bytes, &error) != IE_OK) abort();
  for (size_t i = 0; i < table->count; i++)
    ie_buf_append(&file, table->tensors[i].data, table->tensors[i].bytes);
  if (ie_safetensors_parse(file.data, file.size, "again", &again, &error) != IE_OK) abort();
  if (again.count != table->count) abort();
  for (size_t i = 0; i < table->count; i++) {
    const ie_tensor_info *a = &table->tensors[i], *b = ie_table_find(&again, a->name);
    if (!b || b->dtype != a->dtype || b->rank != a->rank || b->bytes != a->bytes) abort();
    if (memcmp(a->shape, b->shape, sizeof a->shape) != 0 ||
        (a->bytes && memcmp(a->data, b->data, a->bytes) != 0))
      abort();
  }
  ie_table_free(&again);
  ie_buf_free(&file);
  free(out);
}

/* A tensor of any name, type and shape: the writer refuses it, or writes a header that says the same. */
static void write_any(const uint8_t *data, size_t size) {
  ie_tensor_out out = {0};
  if (size < 4) return;
  char *name = calloc(1, size);
  if (!name) abort();
  memcpy(name, data + 4, size - 4);
  out.name = data[3] & 1 ? name : NULL;
  out.dtype = (ie_dtype)(data[0] % (IE_DTYPE_COUNT + 1));
  out.rank = data[1] % (IE_MAX_RANK + 2);
  for (int i = 0; i < out.rank && i < IE_MAX_RANK; i++)
    out.shape[i] = (int64_t)((uint64_t)data[2] << (8 * (i % 8)));
  ie_buf header = {0};
  ie_error error = {0};
  uint64_t data_bytes = 0;
  ie_status status = ie_safetensors_header(&out, 1, NULL, &header, &data_bytes, &error);
  if (status == IE_OK && data_bytes == 0) {
    ie_table table = {0};
    if (ie_safetensors_parse(header.data, header.size, "any", &table, &error) != IE_OK) abort();
    if (!ie_table_find(&table, name)) abort();
    ie_table_free(&table);
  } else if (status != IE_OK && !error.message[0]) {
    abort();
  }
  ie_buf_free(&header);
  free(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  write_any(data, size);
  ie_table table = {0};
  ie_error error = {0};
  if (ie_safetensors_parse(data, size, "input", &table, &error) == IE_OK) {
    uint64_t total = 0;
    for (size_t i = 0; i < table.count; i++) {
      const uint8_t *p = table.tensors[i].data;
      for (size_t k = 0; k < table.tensors[i].bytes; k++) total += p[k];
      if (ie_table_find(&table, table.tensors[i].name) != &table.tensors[i]) abort();
    }
    if (total == UINT64_MAX) abort(); /* keeps the sum */
    write_again(&table);
  } else if (!error.message[0]) {
    abort();
  }
  ie_table_free(&table);
  return 0;
}
