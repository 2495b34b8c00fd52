/* Unicode normal forms, as the reference has them: with the tables of Unicode 9. A code point that was assigned
 * later is left where it stands, does not compose and does not decompose.
 *
 * Bytes that are not UTF-8 are copied; each well-formed stretch between them is normalised by itself.
 * Time is O(n log n) in the length of the longest run of combining marks, linear in everything else. */
#ifndef CLOCHER_TEXT_NORMALIZE_H
#define CLOCHER_TEXT_NORMALIZE_H

#include "base/buf.h"
#include "clocher/text.h"
#include "text/image.h"

/* Text and, where the origin of each byte matters, its span in the original text. */
typedef struct ie_normal_text {
  const char *bytes;
  size_t size;
  const ie_span *map; /* (size), or NULL */
} ie_normal_text;

/* Appends the text after all `normalizers` (0 ends the list) to *out and, when the text has a map, the span of
 * each new byte to *map (ie_span). A character that was composed from several reports the first of them. */
ie_status ie_normalize(const uint8_t normalizers[IE_MAX_NORMALIZERS], ie_normal_text text, ie_buf *out,
                       ie_buf *map, ie_error *error);

/* Whether the normalizers leave the text as it is, by a look at its bytes alone; false when unsure. */
bool ie_normalize_is_idle(const uint8_t normalizers[IE_MAX_NORMALIZERS], const char *text, size_t size);

#endif
