#include "train/id_file.h"

#include "base/size.h"
#include "text/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(ie_id_header) == 176 && sizeof(ie_id_header) % 8 == 0, "stored in files");

/* ---- the checksum ---- */

/* Body first, then the header: the header is known last when a file is written. */
static uint64_t sum_words(uint64_t sum, const void *bytes, size_t size) {
  const uint8_t *p = bytes;
  for (size_t i = 0; i + 8 <= size; i += 8) {
    uint64_t word;
    memcpy(&word, p + i, 8);
    sum = ie_text_mix(sum ^ word ^ 0x9E3779B97F4A7C15u, 0xD6E8FEB86659FD93u) + word;
  }
  return sum;
}

static uint64_t sum_finish(uint64_t sum, const ie_id_header *header) {
  ie_id_header copy = *header;
  copy.checksum = 0;
  return sum_words(sum, &copy, sizeof copy);
}

uint64_t ie_id_file_sum(const void *bytes, size_t size) {
  ie_id_header header;
  memcpy(&header, bytes, sizeof header);
  return sum_finish(sum_words(0, (const uint8_t *)bytes + sizeof header, size - sizeof header), &header);
}

/* ---- reading ---- */

bool ie_id_file_is(const void *bytes, size_t size) {
  return size >= 8 && memcmp(bytes, IE_ID_MAGIC, 8) == 0;
}

/* Bytes of the parts; false when they do not fit a size_t. */
typedef struct id_layout {
  size_t ids, index, mask, total;
} id_layout;

static bool layout_make(const ie_id_header *h, id_layout *out) {
  size_t entries;
  if (h->tokens > SIZE_MAX / 16 || h->documents > SIZE_MAX / 16) return false;
  out->ids = ie_size_align((size_t)h->tokens * h->width, 8);
  out->mask = h->flags & IE_ID_MASKED ? ie_size_align(((size_t)h->tokens + 7) / 8, 8) : 0;
  return ie_size_add((size_t)h->documents, 1, &entries) && ie_size_mul(entries, 8, &out->index) &&
         ie_size_add(sizeof *h, out->ids, &out->total) && ie_size_add(out->total, out->index, &out->total) &&
         ie_size_add(out->total, out->mask, &out->total);
}

static ie_status header_check(const ie_id_header *h, size_t size, const char *where, ie_error *error) {
  if (memcmp(h->magic, IE_ID_MAGIC, 8) != 0)
    return ie_error_set(error, IE_FORMAT, "%s: expected an id file, found something else", where);
  if (h->version != IE_ID_VERSION || h->endian != IE_ID_ENDIAN)
    return ie_error_set(error, IE_FORMAT,
                        "%s: id file of version %u, expected %d of a machine of this byte order", where,
                        h->version, IE_ID_VERSION);
  if (h->size != size)
    return ie_error_set(error, IE_FORMAT, "%s: expected %llu bytes, found %zu: the file is cut or damaged",
                        where, (unsigned long long)h->size, size);
  id_layout layout;
  if ((h->width != 2 && h->width != 4) || h->flags & ~(uint32_t)IE_ID_MASKED || h->vocab == 0 ||
      h->vocab > INT32_MAX || !layout_make(h, &layout) || layout.total != size)
    return ie_error_set(error, IE_FORMAT, "%s: the header contradicts itself or the size of the file", where);
  return IE_OK;
}

static ie_status contents_check(const ie_id_file *f, const char *where, ie_error *error) {
  const ie_id_header *h = f->header;
  uint64_t before = 0;
  for (uint64_t i = 0; i <= h->documents; i++) {
    if ((i == 0 ? f->index[i] != 0 : f->index[i] <= before) || f->index[i] > h->tokens)
      return ie_error_set(error, IE_FORMAT, "%s: the index of documents is damaged at entry %llu", where,
                          (unsigned long long)i);
    before = f->index[i];
  }
  if (before != h->tokens)
    return ie_error_set(error, IE_FORMAT, "%s: the index ends at token %llu, expected %llu", where,
                        (unsigned long long)before, (unsigned long long)h->tokens);
  uint32_t highest = 0;
  if (h->width == 2) {
    for (uint64_t i = 0; i < h->tokens; i++)
      highest = ((const uint16_t *)f->ids)[i] > highest ? ((const uint16_t *)f->ids)[i] : highest;
  } else {
    for (uint64_t i = 0; i < h->tokens; i++)
      highest = ((const uint32_t *)f->ids)[i] > highest ? ((const uint32_t *)f->ids)[i] : highest;
  }
  if (h->tokens && highest >= h->vocab)
    return ie_error_set(error, IE_FORMAT, "%s: it holds the id %u, expected ids below %u", where, highest,
                        h->vocab);
  return IE_OK;
}

ie_status ie_id_file_parse(const void *bytes, size_t size, const char *where, ie_id_file *out,
                           ie_error *error) {
  *out = (ie_id_file){0};
  const ie_id_header *h = bytes;
  if (size < sizeof *h)
    return ie_error_set(error, IE_FORMAT, "%s: expected an id file of at least %zu bytes, found %zu", where,
                        sizeof *h, size);
  ie_status status = header_check(h, size, where, error);
  if (status != IE_OK) return status;
  if (ie_id_file_sum(bytes, size) != h->checksum)
    return ie_error_set(error, IE_FORMAT, "%s: the checksum is wrong: the file is damaged", where);
  id_layout layout;
  (void)layout_make(h, &layout);
  const uint8_t *p = (const uint8_t *)bytes + sizeof *h;
  ie_id_file file = {.header = h, .ids = p, .index = (const uint64_t *)(const void *)(p + layout.ids)};
  if (layout.mask) file.mask = p + layout.ids + layout.index;
  status = contents_check(&file, where, error);
  if (status == IE_OK) *out = file;
  return status;
}

/* ---- writing ---- */

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
    w->sum = sum_words(w->sum, w->rest, 8);
    w->rest_size = 0;
  }
  size_t whole = size / 8 * 8;
  w->sum = sum_words(w->sum, p, whole);
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
  id_layout layout = {0};
  ie_status status = IE_OK;
  bool ok = layout_make(&w->header, &layout) && body_align(w) && body_write(w, w->index, layout.index) &&
            (!layout.mask || body_write(w, w->mask, layout.mask));
  w->header.size = layout.total;
  w->header.checksum = sum_finish(w->sum, &w->header);
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
