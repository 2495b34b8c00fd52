#include "formats/zip.h"

#include "base/quote.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* APPNOTE.TXT 4.3: signatures, and sizes of the fixed parts. */
enum {
  LOCAL_SIGNATURE = 0x04034b50,
  CENTRAL_SIGNATURE = 0x02014b50,
  END_SIGNATURE = 0x06054b50,
  END64_SIGNATURE = 0x06064b50,
  LOCATOR_SIGNATURE = 0x07064b50,
  LOCAL_BYTES = 30,
  CENTRAL_BYTES = 46,
  END_BYTES = 22,
  END64_BYTES = 56,
  LOCATOR_BYTES = 20,
  ZIP64_EXTRA = 1,
  ENCRYPTED = 1,
};

typedef struct archive {
  const uint8_t *p; /* (size) */
  size_t size;
  const char *path;
  uint64_t count, start, bytes; /* of the directory */
  ie_error *error;
} archive;

static uint64_t number(const uint8_t *p, int n) {
  uint64_t value = 0;
  for (int i = 0; i < n; i++) value |= (uint64_t)p[i] << (8 * i);
  return value;
}

static ie_status archive_bad(const archive *a, const char *what) {
  return ie_error_set(a->error, IE_FORMAT, "%s: damaged zip archive: %s", a->path, what);
}

/* "data/17", cut and made fit for a message. */
static ie_quoted name_quote(const char *name, size_t size) {
  char text[128];
  snprintf(text, sizeof text, "%.*s", size > 120 ? 120 : (int)size, name);
  return ie_quote(text);
}

static ie_status entry_bad(const archive *a, const ie_zip_entry *e, ie_status status, const char *what) {
  return ie_error_set(a->error, status, "%s: entry %s of the zip archive: %s", a->path,
                      name_quote(e->name, e->name_size).text, what);
}

/* ---- the end of the archive ---- */

static ie_status end64_find(archive *a, size_t end) {
  if (end < LOCATOR_BYTES || number(a->p + end - LOCATOR_BYTES, 4) != LOCATOR_SIGNATURE)
    return archive_bad(a, "its size asks for zip64, but there is no such record");
  uint64_t at = number(a->p + end - LOCATOR_BYTES + 8, 8);
  if (at > end - LOCATOR_BYTES || end - LOCATOR_BYTES - at < END64_BYTES ||
      number(a->p + at, 4) != END64_SIGNATURE)
    return archive_bad(a, "its zip64 record is not where it should be");
  if (number(a->p + at + 16, 4) != 0 || number(a->p + at + 20, 4) != 0)
    return archive_bad(a, "it is one of several disks");
  a->count = number(a->p + at + 32, 8);
  a->bytes = number(a->p + at + 40, 8);
  a->start = number(a->p + at + 48, 8);
  return IE_OK;
}

/* The record at the end, behind which only a comment of up to 65535 bytes may stand. */
static ie_status end_find(archive *a) {
  if (a->size < END_BYTES) return archive_bad(a, "it is cut");
  size_t end = a->size - END_BYTES;
  for (size_t comment = 0;; comment++, end--) {
    if (number(a->p + end, 4) == END_SIGNATURE && number(a->p + end + 20, 2) == comment) break;
    if (end == 0 || comment == UINT16_MAX)
      return archive_bad(a, "there is no directory at its end: it is cut");
  }
  const uint8_t *p = a->p + end;
  a->count = number(p + 10, 2);
  a->bytes = number(p + 12, 4);
  a->start = number(p + 16, 4);
  bool wide = a->count == UINT16_MAX || a->bytes == UINT32_MAX || a->start == UINT32_MAX;
  if (wide) {
    ie_status status = end64_find(a, end);
    if (status != IE_OK) return status;
  } else if (number(p + 4, 2) != 0 || number(p + 6, 2) != 0) {
    return archive_bad(a, "it is one of several disks");
  }
  if (a->start > end || a->bytes > end - a->start)
    return archive_bad(a, "its directory lies outside the file");
  if (a->count > a->bytes / CENTRAL_BYTES)
    return archive_bad(a, "its directory is too short for its entries");
  return IE_OK;
}

/* ---- entries ---- */

/* Replaces what does not fit 32 bits by the fields of the zip64 extra: size, stored size, offset, in this order, each
 * only when its short form is all ones. */
static bool wide_read(const uint8_t *extra, size_t n, uint64_t field[3]) {
  bool wanted = field[0] == UINT32_MAX || field[1] == UINT32_MAX || field[2] == UINT32_MAX;
  for (size_t at = 0; wanted && at + 4 <= n;) {
    size_t id = number(extra + at, 2), bytes = number(extra + at + 2, 2);
    at += 4;
    if (bytes > n - at) return false;
    if (id == ZIP64_EXTRA) {
      size_t used = 0;
      for (int i = 0; i < 3; i++) {
        if (field[i] != UINT32_MAX) continue;
        if (bytes - used < 8) return false;
        field[i] = number(extra + at + used, 8);
        used += 8;
      }
      return true;
    }
    at += bytes;
  }
  return !wanted;
}

/* Where the data starts, by the local header; its name must be that of the directory. */
static ie_status local_check(const archive *a, uint64_t at, uint64_t stored, ie_zip_entry *e) {
  if (at > a->start || a->start - at < LOCAL_BYTES || number(a->p + at, 4) != LOCAL_SIGNATURE)
    return entry_bad(a, e, IE_FORMAT, "there is no entry where the directory says");
  const uint8_t *p = a->p + at;
  size_t before = LOCAL_BYTES + number(p + 26, 2) + number(p + 28, 2);
  if (number(p + 26, 2) != e->name_size || before > a->start - at ||
      memcmp(p + LOCAL_BYTES, e->name, e->name_size) != 0)
    return entry_bad(a, e, IE_FORMAT, "it has another name where it lies");
  if (stored > a->start - at - before) return entry_bad(a, e, IE_FORMAT, "it reaches beyond the archive");
  e->header = (size_t)at;
  e->offset = (size_t)at + before;
  e->size = (size_t)stored;
  return IE_OK;
}

/* One entry of the directory at *at, which moves behind it. */
static ie_status entry_read(const archive *a, uint64_t *at, ie_zip_entry *e) {
  uint64_t left = a->start + a->bytes - *at;
  const uint8_t *p = a->p + *at;
  if (left < CENTRAL_BYTES || number(p, 4) != CENTRAL_SIGNATURE)
    return archive_bad(a, "its directory is cut or damaged");
  size_t name = number(p + 28, 2), extra = number(p + 30, 2), comment = number(p + 32, 2);
  if (name + extra + comment > left - CENTRAL_BYTES) return archive_bad(a, "its directory is cut or damaged");
  *at += CENTRAL_BYTES + name + extra + comment;
  *e = (ie_zip_entry){.name = (const char *)p + CENTRAL_BYTES, .name_size = name};
  if (number(p + 8, 2) & ENCRYPTED) return entry_bad(a, e, IE_UNSUPPORTED, "it is encrypted");
  uint64_t field[3] = {number(p + 24, 4), number(p + 20, 4), number(p + 42, 4)};
  if (number(p + 10, 2) != 0)
    return entry_bad(a, e, IE_UNSUPPORTED,
                     "it is compressed, expected one that is stored, as torch.save writes it");
  if (!wide_read(p + CENTRAL_BYTES + name, extra, field))
    return entry_bad(a, e, IE_FORMAT, "its zip64 sizes are missing");
  if (field[0] != field[1]) return entry_bad(a, e, IE_FORMAT, "its two sizes differ although it is stored");
  return local_check(a, field[2], field[1], e);
}

static int compare_header(const void *x, const void *y) {
  const ie_zip_entry *a = x, *b = y;
  return (a->header > b->header) - (a->header < b->header);
}

static int name_order(const char *a, size_t a_size, const char *b, size_t b_size) {
  size_t n = a_size < b_size ? a_size : b_size;
  int order = n ? memcmp(a, b, n) : 0;
  return order ? order : (a_size > b_size) - (a_size < b_size);
}

static int compare_name(const void *x, const void *y) {
  const ie_zip_entry *a = x, *b = y;
  return name_order(a->name, a->name_size, b->name, b->name_size);
}

/* No two entries over each other, none of the same name; leaves them sorted by name. */
static ie_status entries_check(const archive *a, const ie_zip *zip) {
  if (zip->count) qsort(zip->entries, zip->count, sizeof *zip->entries, compare_header);
  for (size_t i = 1; i < zip->count; i++)
    if (zip->entries[i].header < zip->entries[i - 1].offset + zip->entries[i - 1].size)
      return entry_bad(a, &zip->entries[i], IE_FORMAT, "it lies over another entry");
  if (zip->count) qsort(zip->entries, zip->count, sizeof *zip->entries, compare_name);
  for (size_t i = 1; i < zip->count; i++)
    if (compare_name(&zip->entries[i - 1], &zip->entries[i]) == 0)
      return entry_bad(a, &zip->entries[i], IE_FORMAT, "there are two of this name");
  return IE_OK;
}

ie_status ie_zip_read(const void *bytes, size_t size, const char *path, ie_zip *out, ie_error *error) {
  *out = (ie_zip){0};
  archive a = {.p = bytes, .size = size, .path = path, .error = error};
  ie_status status = end_find(&a);
  if (status != IE_OK) return status;
  out->entries = calloc(a.count ? (size_t)a.count : 1, sizeof *out->entries);
  if (!out->entries) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", path);
  uint64_t at = a.start;
  for (uint64_t i = 0; i < a.count && status == IE_OK; i++) {
    status = entry_read(&a, &at, &out->entries[i]);
    if (status == IE_OK) out->count++;
  }
  if (status == IE_OK) status = entries_check(&a, out);
  if (status != IE_OK) ie_zip_free(out);
  return status;
}

void ie_zip_free(ie_zip *zip) {
  free(zip->entries);
  *zip = (ie_zip){0};
}

const ie_zip_entry *ie_zip_find(const ie_zip *zip, const char *name, size_t name_size) {
  const ie_zip_entry key = {.name = name, .name_size = name_size};
  if (zip->count == 0) return NULL;
  return bsearch(&key, zip->entries, zip->count, sizeof *zip->entries, compare_name);
}
