#include "clocher/text.h"

#include <string.h>

/* The separator's line at or after `from`, which starts a line; *end is behind its line feed. size when none follows. */
static size_t separator_find(const char *text, size_t size, size_t from, size_t *end) {
  static const char mark[] = IE_DOCUMENT_SEPARATOR;
  const size_t n = sizeof mark - 1;
  for (size_t at = from; at < size;) {
    const char *found = memmem(text + at, size - at, mark, n);
    if (!found) break;
    size_t start = (size_t)(found - text), stop = start + n;
    if (stop < size && text[stop] == '\r') stop++;
    bool whole = (start == 0 || text[start - 1] == '\n') && (stop == size || text[stop] == '\n');
    if (whole) {
      *end = stop < size ? stop + 1 : size;
      return start;
    }
    at = start + n;
  }
  *end = size;
  return size;
}

bool ie_documents_next(ie_documents *documents, const char **document, size_t *bytes) {
  while (documents->at < documents->size) {
    size_t start = documents->at, end;
    size_t stop = separator_find(documents->text, documents->size, start, &end);
    documents->at = end;
    if (stop > start && documents->text[stop - 1] == '\n') stop--;
    if (stop == start) continue;
    *document = documents->text + start;
    *bytes = stop - start;
    return true;
  }
  return false;
}
