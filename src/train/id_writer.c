#include "train/id_writer.h"

#include "base/size.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct ie_id_writer {
  ie_writer file;
  ie_id_header header;
  uint64_t sum;
  uint8_t rest[8]; /* (rest_size) bytes that fill no word yet */
  size_t rest_size;
  uint64_t *index; /* (index_capacity) */
  size_t index_capacity;
  uint8_t *mask; /* (mask_capacity) bits; NULL without */
  size_t mask_capacity;
  uint8_t chunk[4096]; /* ids on their way */
};

static ie_status writer_failed(const ie_id_writer *w, ie_error *error) {
  return ie_error_set(error, IE_IO, "%s: cannot write: %s", w->file.path, strerror(errno ? errno : EIO));
}

static ie_status writer_no_memory(const ie_id_writer *w, ie_error *error) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for %llu documents", w->file.path,
                      (unsigned long long)w->header.documents);
}

/* Appends to the body, and to its sum by words of 8 bytes. */
static bool body_write(ie_id_writer *w, const void *bytes, size_t size) {
  const uint8_t *p = bytes;
  if (size && fwrite(p, 1, size, w->file.stream) != size) return false;
  while (size && w->rest_size) {
    w->rest[w->rest_size++] = *p++;
    size--;
    if (w->rest_size < 8) continue;
    w->sum = ie_id_sum_words(w->sum, w->rest, 8);
    w->rest_size = 0;
  }
  size_t whole = size / 8 * 8;
  w->sum = ie_id_sum_words(w->sum, p, whole);
  if (size > whole) memcpy(w->rest, p + whole, size - whole);
  if (size > whole) w->rest_size = size - whole;
  return true;
}

static bool body_align(ie_id_writer *w) {
  static const uint8_t zero[8];
  return w->rest_size == 0 || body_write(w, zero, 8 - w->rest_size);
}

ie_status ie_id_writer_open(const char *path, const ie_id_header *header, bool masked, ie_id_writer **out,
                            ie_error *error) {
  *out = NULL;
  ie_id_writer *w = calloc(1, sizeof *w);
  if (!w) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", path);
  w->header = *header;
  memcpy(w->header.magic, IE_ID_MAGIC, 8);
  w->header.version = IE_ID_VERSION;
  w->header.endian = IE_ID_ENDIAN;
  w->header.width = header->vocab <= 65536 ? 2 : 4;
  w->header.flags = masked ? IE_ID_MASKED : 0;
  w->header.reserved = 0;
  w->header.tokens = w->header.documents = w->header.bytes = w->header.size = w->header.checksum = 0;
  ie_status status = ie_writer_open(path, &w->file, error);
  if (status != IE_OK) {
    free(w);
    return status;
  }
  w->index_capacity = 1024;
  w->index = calloc(w->index_capacity, sizeof *w->index);
  if (!w->index) status = writer_no_memory(w, error);
  if (status == IE_OK && fwrite(&w->header, 1, sizeof w->header, w->file.stream) != sizeof w->header)
    status = writer_failed(w, error);
  if (status != IE_OK) {
    ie_id_writer_abandon(w);
    return status;
  }
  *out = w;
  return IE_OK;
}

/* Room for one more document with `count` tokens. */
static bool writer_reserve(ie_id_writer *w, size_t count) {
  size_t need = (size_t)w->header.documents + 2;
  if (need > w->index_capacity) {
    size_t capacity = w->index_capacity * 2, bytes;
    uint64_t *index = ie_size_mul(capacity, sizeof *index, &bytes) ? realloc(w->index, bytes) : NULL;
    if (!index) return false;
    w->index = index;
    w->index_capacity = capacity;
  }
  need = ie_size_align(((size_t)w->header.tokens + count + 7) / 8, 8);
  if (w->header.flags & IE_ID_MASKED && need > w->mask_capacity) {
    size_t capacity = need + w->mask_capacity;
    uint8_t *mask = realloc(w->mask, capacity);
    if (!mask) return false;
    memset(mask + w->mask_capacity, 0, capacity - w->mask_capacity);
    w->mask = mask;
    w->mask_capacity = capacity;
  }
  return true;
}

static bool ids_write(ie_id_writer *w, const int32_t *ids, size_t count) {
  size_t width = w->header.width, room = sizeof w->chunk / width;
  for (size_t at = 0; at < count; at += room) {
    size_t n = count - at < room ? count - at : room;
    for (size_t i = 0; i < n; i++) {
      uint16_t narrow = (uint16_t)ids[at + i];
      memcpy(w->chunk + i * width, width == 2 ? (const void *)&narrow : (const void *)&ids[at + i], width);
    }
    if (!body_write(w, w->chunk, n * width)) return false;
  }
  return true;
}

ie_status ie_id_writer_add(ie_id_writer *w, const int32_t *ids, size_t count, const uint8_t *mask,
                           uint64_t bytes, ie_error *error) {
  for (size_t i = 0; i < count; i++)
    if (ids[i] < 0 || (uint32_t)ids[i] >= w->header.vocab)
      return ie_error_set(error, IE_INTERNAL, "%s: id %d, expected ids below %u", w->file.path, ids[i],
                          w->header.vocab);
  if (!writer_reserve(w, count)) return writer_no_memory(w, error);
  if (!ids_write(w, ids, count)) return writer_failed(w, error);
  if (w->header.flags & IE_ID_MASKED)
    for (size_t i = 0; i < count; i++)
      if (!mask || mask[i])
        w->mask[(w->header.tokens + i) / 8] |= (uint8_t)(1u << ((w->header.tokens + i) % 8));
  w->header.tokens += count;
  w->header.bytes += bytes;
  w->index[++w->header.documents] = w->header.tokens;
  return IE_OK;
}

ie_status ie_id_writer_commit(ie_id_writer *w, ie_error *error) {
  ie_id_layout layout = {0};
  ie_status status = IE_OK;
  bool ok = ie_id_file_layout(&w->header, &layout) && body_align(w) &&
            body_write(w, w->index, layout.index) && (!layout.mask || body_write(w, w->mask, layout.mask));
  w->header.size = layout.total;
  w->header.checksum = ie_id_sum_finish(w->sum, &w->header);
  ok = ok && fseeko(w->file.stream, 0, SEEK_SET) == 0 &&
       fwrite(&w->header, 1, sizeof w->header, w->file.stream) == sizeof w->header;
  status = ok ? ie_writer_commit(&w->file, error) : writer_failed(w, error);
  ie_id_writer_abandon(w);
  return status;
}

void ie_id_writer_abandon(ie_id_writer *w) {
  if (!w) return;
  ie_writer_abandon(&w->file);
  free(w->index);
  free(w->mask);
  free(w);
}
