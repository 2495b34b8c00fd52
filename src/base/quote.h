/* Text from a file, made fit to stand inside a one-line message: control characters become '?', and what is
 * longer than the room is cut at a character boundary and ends in "...". */
#ifndef CLOCHER_BASE_QUOTE_H
#define CLOCHER_BASE_QUOTE_H

#include <stddef.h>
#include <string.h>

typedef struct ie_quoted {
  char text[112];
} ie_quoted;

/* Use as a temporary: printf("%s", ie_quote(name).text). */
static inline ie_quoted ie_quote(const char *s) {
  ie_quoted q;
  const size_t room = sizeof q.text - 4;
  size_t n = strlen(s);
  size_t keep = n <= room ? n : room;
  if (keep < n)
    while (keep > 0 && ((unsigned char)s[keep] & 0xC0) == 0x80) keep--;
  for (size_t i = 0; i < keep; i++) {
    unsigned char c = (unsigned char)s[i];
    q.text[i] = c < 0x20 || c == 0x7F ? '?' : s[i];
  }
  memcpy(q.text + keep, keep < n ? "..." : "", keep < n ? 4 : 1);
  return q;
}

#endif
