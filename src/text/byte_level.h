/* GPT-2's byte table: each byte is written as one printable character, so that a vocabulary is readable text.
 * Bytes 33 to 126, 161 to 172 and 174 to 255 stand for themselves; the others, in order, are U+0100 and up. */
#ifndef CLOCHER_TEXT_BYTE_LEVEL_H
#define CLOCHER_TEXT_BYTE_LEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { IE_BYTE_LEVEL_CHARS = 256 + 68 };

typedef struct ie_byte_level {
  int16_t byte[IE_BYTE_LEVEL_CHARS]; /* the byte that a code point stands for, or -1 */
} ie_byte_level;

static inline void ie_byte_level_init(ie_byte_level *table) {
  for (int i = 0; i < IE_BYTE_LEVEL_CHARS; i++) table->byte[i] = -1;
  int16_t next = 256;
  for (int16_t b = 0; b < 256; b++) {
    bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    table->byte[itself ? b : next++] = b;
  }
}

/* Turns a vocabulary string of `size` bytes into the bytes that it stands for, at most `size` of them, in out;
 * false when a character is not in the table. *out_size is set. */
static inline bool ie_byte_level_decode(const ie_byte_level *table, const char *text, size_t size, char *out,
                                        size_t *out_size) {
  const uint8_t *p = (const uint8_t *)text;
  size_t n = 0;
  for (size_t i = 0; i < size;) {
    uint32_t c = p[i];
    if (c < 0x80) {
      i++;
    } else if ((c & 0xE0) == 0xC0 && i + 1 < size && (p[i + 1] & 0xC0) == 0x80) {
      c = (c & 0x1F) << 6 | (p[i + 1] & 0x3Fu);
      i += 2;
    } else {
      return false;
    }
    if (c >= IE_BYTE_LEVEL_CHARS || table->byte[c] < 0) return false;
    out[n++] = (char)table->byte[c];
  }
  *out_size = n;
  return true;
}

#endif
