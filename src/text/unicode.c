#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

uint8_t ie_unicode_properties(uint32_t code_point) {
  size_t low = 0, high = ie_unicode_run_count;
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    if (ie_unicode_runs[middle] >> 8 <= code_point)
      low = middle;
    else
      high = middle;
  }
  return (uint8_t)ie_unicode_runs[low];
}

bool ie_unicode_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool ie_unicode_word(uint32_t c) {
  if (c == 0x200C || c == 0x200D) return true; /* Join_Control, which the Rust crate counts */
  return ie_unicode_properties(c) & IE_RUN_WORD;
}

size_t ie_utf8_decode(const char *text, size_t n, uint32_t *code_point) {
  const uint8_t *p = (const uint8_t *)text;
  uint32_t a = p[0];
  if (a < 0x80) {
    *code_point = a;
    return 1;
  }
  if (a < 0xC2 || n < 2 || (p[1] & 0xC0) != 0x80) return 0;
  if (a < 0xE0) {
    *code_point = (a & 0x1F) << 6 | (p[1] & 0x3Fu);
    return 2;
  }
  if (n < 3 || (p[2] & 0xC0) != 0x80) return 0;
  if (a < 0xF0) {
    uint32_t c = (a & 0x0F) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    *code_point = c;
    return c < 0x800 || (c >= 0xD800 && c < 0xE000) ? 0 : 3;
  }
  if (a > 0xF4 || n < 4 || (p[3] & 0xC0) != 0x80) return 0;
  uint32_t c = (a & 0x07) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
  *code_point = c;
  return c < 0x10000 || c > IE_MAX_CODE_POINT ? 0 : 4;
}

size_t ie_utf8_encode(uint32_t c, char out[4]) {
  if (c < 0x80) {
    out[0] = (char)c;
    return 1;
  }
  if (c < 0x800) {
    out[0] = (char)(0xC0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3F));
    return 2;
  }
  if (c < 0x10000) {
    out[0] = (char)(0xE0 | c >> 12);
    out[1] = (char)(0x80 | (c >> 6 & 0x3F));
    out[2] = (char)(0x80 | (c & 0x3F));
    return 3;
  }
  out[0] = (char)(0xF0 | c >> 18);
  out[1] = (char)(0x80 | (c >> 12 & 0x3F));
  out[2] = (char)(0x80 | (c >> 6 & 0x3F));
  out[3] = (char)(0x80 | (c & 0x3F));
  return 4;
}

size_t ie_utf8_valid(const char *p, size_t n) {
  size_t i = 0;
  while (i < n) {
    uint64_t word;
    while (n - i >= sizeof word) { /* ASCII, eight at a time */
      memcpy(&word, p + i, sizeof word);
      if (word & 0x8080808080808080u) break;
      i += sizeof word;
    }
    if (i >= n) break;
    uint32_t c;
    size_t size = ie_utf8_decode(p + i, n - i, &c);
    if (size == 0) return i;
    i += size;
  }
  return i;
}

/* Whether n bytes (1 to 3) are the beginning of a well-formed character and not a whole one: table 3-7 of the
 * Unicode standard limits the second byte after E0, ED, F0 and F4. */
static bool utf8_is_prefix(const uint8_t *p, size_t n) {
  uint8_t a = p[0];
  size_t want = a >= 0xC2 && a <= 0xDF ? 2 : (a & 0xF0) == 0xE0 ? 3 : a >= 0xF0 && a <= 0xF4 ? 4 : 0;
  if (n >= want) return false;
  if (n >= 2) {
    uint8_t low = a == 0xE0 ? 0xA0 : a == 0xF0 ? 0x90 : 0x80;
    uint8_t high = a == 0xED ? 0x9F : a == 0xF4 ? 0x8F : 0xBF;
    if (p[1] < low || p[1] > high) return false;
  }
  return n < 3 || (p[2] & 0xC0) == 0x80;
}

size_t ie_utf8_unfinished(const char *p, size_t n) {
  for (size_t k = n < 3 ? n : 3; k > 0; k--)
    if (utf8_is_prefix((const uint8_t *)p + n - k, k)) return k;
  return 0;
}

static uint8_t class_bits(uint32_t code_point, ie_category category) {
  uint8_t bits = 0;
  if (category <= IE_CAT_LO) bits |= IE_CLASS_LETTER;
  if (category <= IE_CAT_ME && category != IE_CAT_LL) bits |= IE_CLASS_UPPER;
  if (category <= IE_CAT_ME && category != IE_CAT_LU && category != IE_CAT_LT) bits |= IE_CLASS_LOWER;
  if (category >= IE_CAT_ND && category <= IE_CAT_NO) bits |= IE_CLASS_NUMBER;
  if (ie_unicode_space(code_point)) bits |= IE_CLASS_SPACE;
  if (code_point == '\r' || code_point == '\n') bits |= IE_CLASS_NEWLINE;
  return bits;
}

/* The index of an equal block among `count`, or count. New blocks mostly repeat a recent one. */
static size_t block_find(uint8_t (*blocks)[256], size_t count, const uint8_t block[256]) {
  for (size_t i = count; i-- > 0;)
    if (memcmp(blocks[i], block, 256) == 0) return i;
  return count;
}

ie_char_classes *ie_char_classes_new(void) {
  enum { MAX_BLOCKS = 512 };
  ie_char_classes *classes = calloc(1, sizeof *classes);
  if (!classes) return NULL;
  classes->bits = malloc(MAX_BLOCKS * sizeof *classes->bits);
  if (!classes->bits) {
    free(classes);
    return NULL;
  }
  size_t count = 0, run = 0;
  for (uint32_t b = 0; b < IE_CLASS_BLOCKS; b++) {
    uint8_t block[256];
    uint32_t first = b << 8;
    while (run + 1 < ie_unicode_run_count && ie_unicode_runs[run + 1] >> 8 <= first) run++;
    uint32_t next = run + 1 < ie_unicode_run_count ? ie_unicode_runs[run + 1] >> 8 : IE_MAX_CODE_POINT + 1;
    if (b > 0x30 && next >= first + 256) { /* one run: white space ends at U+3000 */
      memset(block, class_bits(first, ie_unicode_runs[run] & IE_RUN_CATEGORY), sizeof block);
    } else {
      for (uint32_t i = 0; i < 256; i++) {
        while (run + 1 < ie_unicode_run_count && ie_unicode_runs[run + 1] >> 8 <= first + i) run++;
        block[i] = class_bits(first + i, ie_unicode_runs[run] & IE_RUN_CATEGORY);
      }
    }
    size_t at = block_find(classes->bits, count, block);
    if (at == MAX_BLOCKS) { /* cannot happen with the committed table: it needs 160 */
      ie_char_classes_free(classes);
      return NULL;
    }
    if (at == count) memcpy(classes->bits[count++], block, sizeof block);
    classes->block[b] = (uint16_t)at;
  }
  return classes;
}

void ie_char_classes_free(ie_char_classes *classes) {
  if (!classes) return;
  free(classes->bits);
  free(classes);
}
