#include "support/torch_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void put(ie_buf *buf, uint64_t value, int n) {
  for (int i = 0; i < n; i++) assert_true(ie_buf_append_char(buf, (char)(i < 8 ? value >> (8 * i) : 0)));
}

static void text(ie_buf *buf, const char *s) {
  assert_true(ie_buf_append_str(buf, s));
}

/* ---- zip ---- */

void zip_add(zip_writer *zip, const char *name, const void *data, size_t size, size_t shift) {
  size_t at = zip->bytes.size, header = 30 + strlen(name) + 4;
  size_t padding = (64 - (at + header) % 64) % 64 + shift;
  put(&zip->bytes, 0x04034b50, 4);
  put(&zip->bytes, 0, 2);
  put(&zip->bytes, zip->flags, 2);
  put(&zip->bytes, zip->method, 2);
  put(&zip->bytes, 0, 4 + 4);
  put(&zip->bytes, size, 4);
  put(&zip->bytes, size, 4);
  put(&zip->bytes, strlen(name), 2);
  put(&zip->bytes, 4 + padding, 2);
  text(&zip->bytes, name);
  if (zip->lie_name) zip->bytes.data[zip->bytes.size - 1] ^= 1;
  put(&zip->bytes, 0x4246, 2); /* "FB", the padding of torch.save */
  put(&zip->bytes, padding, 2);
  for (size_t i = 0; i < padding; i++) put(&zip->bytes, 'Z', 1);
  assert_true(ie_buf_append(&zip->bytes, data, size));

  ie_buf *d = &zip->directory;
  uint64_t offset = (uint64_t)((long)at + zip->lie_offset), shown = (uint64_t)((long)size + zip->lie_size);
  put(d, 0x02014b50, 4);
  put(d, 0, 4);
  put(d, zip->flags, 2);
  put(d, zip->method, 2);
  put(d, 0, 4 + 4);
  put(d, zip->wide ? UINT32_MAX : shown + (uint64_t)zip->lie_stored, 4);
  put(d, zip->wide ? UINT32_MAX : shown, 4);
  put(d, strlen(name), 2);
  put(d, zip->wide ? 4 + 28 : 0, 2);
  put(d, 0, 2 + 2 + 2 + 4);
  put(d, zip->wide ? UINT32_MAX : offset, 4);
  text(d, name);
  if (zip->wide) { /* behind an extra field of another kind */
    put(d, 0x4246, 2);
    put(d, 0, 2);
    put(d, 1, 2);
    put(d, 24, 2);
    put(d, shown, 8);
    put(d, shown + (uint64_t)zip->lie_stored, 8);
    put(d, offset, 8);
  }
  zip->count++;
}

void zip_finish(zip_writer *zip) {
  size_t start = zip->bytes.size, bytes = zip->directory.size, end;
  assert_true(ie_buf_append(&zip->bytes, zip->directory.data, bytes));
  end = zip->bytes.size;
  if (zip->wide) {
    put(&zip->bytes, 0x06064b50, 4);
    put(&zip->bytes, 44, 8);
    put(&zip->bytes, 0, 4 + 4 + 4);
    put(&zip->bytes, zip->count, 8);
    put(&zip->bytes, zip->count, 8);
    put(&zip->bytes, bytes, 8);
    put(&zip->bytes, start, 8);
    put(&zip->bytes, 0x07064b50, 4);
    put(&zip->bytes, 0, 4);
    put(&zip->bytes, end, 8);
    put(&zip->bytes, 1, 4);
  }
  put(&zip->bytes, 0x06054b50, 4);
  put(&zip->bytes, 0, 4);
  put(&zip->bytes, zip->wide ? UINT16_MAX : zip->count, 2);
  put(&zip->bytes, zip->wide ? UINT16_MAX : zip->count, 2);
  put(&zip->bytes, zip->wide ? UINT32_MAX : bytes, 4);
  put(&zip->bytes, zip->wide ? UINT32_MAX : start, 4);
  put(&zip->bytes, 0, 2);
}

void zip_free(zip_writer *zip) {
  ie_buf_free(&zip->bytes);
  ie_buf_free(&zip->directory);
}

/* ---- pickle ---- */

void pickle_text(ie_buf *pickle, const char *s) {
  put(pickle, 'X', 1);
  put(pickle, strlen(s), 4);
  text(pickle, s);
}

void pickle_int(ie_buf *pickle, long long number) {
  if (number >= 0 && number < 256) {
    put(pickle, 'K', 1);
    put(pickle, (uint64_t)number, 1);
  } else if (number >= INT32_MIN && number <= INT32_MAX) {
    put(pickle, 'J', 1);
    put(pickle, (uint64_t)number, 4);
  } else {
    put(pickle, 0x8A, 1); /* LONG1 */
    put(pickle, 8, 1);
    put(pickle, (uint64_t)number, 8);
  }
}

static void numbers(ie_buf *pickle, const long long *value, int n) {
  text(pickle, "(");
  for (int i = 0; i < n; i++) pickle_int(pickle, value[i]);
  text(pickle, "t");
}

void pickle_view(ie_buf *pickle, const torch_view *v) {
  pickle_text(pickle, v->name);
  if (v->parameter) text(pickle, "ctorch._utils\n_rebuild_parameter\n(");
  text(pickle, "ctorch._utils\n_rebuild_tensor_v2\n((");
  pickle_text(pickle, "storage");
  text(pickle, "ctorch\n");
  text(pickle, v->storage_type);
  text(pickle, "\n");
  pickle_text(pickle, v->key);
  pickle_text(pickle, "cpu");
  pickle_int(pickle, v->elements);
  text(pickle, "tQ");
  pickle_int(pickle, v->first);
  numbers(pickle, v->shape, v->rank);
  numbers(pickle, v->stride, v->rank);
  text(pickle, "\x89"
               "ccollections\nOrderedDict\n)RtR");
  if (v->parameter)
    text(pickle, "\x88"
                 "ccollections\nOrderedDict\n)RtR");
}

void pickle_views(ie_buf *pickle, const torch_view *views, size_t count) {
  text(pickle, "\x80\x02}(");
  for (size_t i = 0; i < count; i++) pickle_view(pickle, &views[i]);
  text(pickle, "u.");
}

void torch_archive(zip_writer *zip, const ie_buf *pickle, const torch_storage *storages, size_t count) {
  char name[128];
  zip_add(zip, "m/data.pkl", pickle->data, pickle->size, 0);
  zip_add(zip, "m/byteorder", "little", 6, 0);
  for (size_t i = 0; i < count; i++) {
    snprintf(name, sizeof name, "m/data/%s", storages[i].key);
    zip_add(zip, name, storages[i].data, storages[i].size, 0);
  }
  zip_add(zip, "m/version", "3\n", 2, 0);
  zip_finish(zip);
}

void torch_marks(zip_writer *zip, const char *names, uint8_t mark) {
  torch_view views[8] = {{0}};
  char copy[256], *save = NULL;
  size_t count = 0;
  ie_buf pickle = {0};
  snprintf(copy, sizeof copy, "%s", names);
  for (char *name = strtok_r(copy, " ", &save); name; name = strtok_r(NULL, " ", &save))
    views[count++] = (torch_view){name, "ByteStorage", "0", 1, 0, 1, {1}, {1}, false};
  pickle_views(&pickle, views, count);
  torch_archive(zip, &pickle, &(torch_storage){"0", &mark, 1}, 1);
  ie_buf_free(&pickle);
}
