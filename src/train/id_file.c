#include "train/id_file.h"

#include "base/size.h"
#include "text/image.h"

#include <string.h>

_Static_assert(sizeof(ie_id_header) == 176 && sizeof(ie_id_header) % 8 == 0, "stored in files");

/* ---- the checksum ---- */

uint64_t ie_id_sum_words(uint64_t sum, const void *bytes, size_t size) {
  const uint8_t *p = bytes;
  for (size_t i = 0; i + 8 <= size; i += 8) {
    uint64_t word;
    memcpy(&word, p + i, 8);
    sum = ie_text_mix(sum ^ word ^ 0x9E3779B97F4A7C15u, 0xD6E8FEB86659FD93u) + word;
  }
  return sum;
}

uint64_t ie_id_sum_finish(uint64_t sum, const ie_id_header *header) {
  ie_id_header copy = *header;
  copy.checksum = 0;
  return ie_id_sum_words(sum, &copy, sizeof copy);
}

uint64_t ie_id_file_sum(const void *bytes, size_t size) {
  ie_id_header header;
  memcpy(&header, bytes, sizeof header);
  return ie_id_sum_finish(ie_id_sum_words(0, (const uint8_t *)bytes + sizeof header, size - sizeof header),
                          &header);
}

/* ---- reading ---- */

bool ie_id_file_is(const void *bytes, size_t size) {
  return size >= 8 && memcmp(bytes, IE_ID_MAGIC, 8) == 0;
}

bool ie_id_file_layout(const ie_id_header *h, ie_id_layout *out) {
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
  ie_id_layout layout;
  if ((h->width != 2 && h->width != 4) || h->flags & ~(uint32_t)IE_ID_MASKED || h->vocab == 0 ||
      h->vocab > INT32_MAX || !ie_id_file_layout(h, &layout) || layout.total != size)
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
  ie_id_layout layout;
  (void)ie_id_file_layout(h, &layout);
  const uint8_t *p = (const uint8_t *)bytes + sizeof *h;
  ie_id_file file = {.header = h, .ids = p, .index = (const uint64_t *)(const void *)(p + layout.ids)};
  if (layout.mask) file.mask = p + layout.ids + layout.index;
  status = contents_check(&file, where, error);
  if (status == IE_OK) *out = file;
  return status;
}
