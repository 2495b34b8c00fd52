/* UTF-8 and what the tokenizer must know of Unicode. The categories are those of Unicode 16, as the reference
 * regular expression engines see them (tools/unicode); nothing here depends on the version of a library.
 * Thread safety: constant data; an ie_char_classes is read-only once built. */
#ifndef CLOCHER_TEXT_UNICODE_H
#define CLOCHER_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* General categories, in the order of the generated table. */
typedef enum ie_category {
  IE_CAT_LU,
  IE_CAT_LL,
  IE_CAT_LT,
  IE_CAT_LM,
  IE_CAT_LO,
  IE_CAT_MN,
  IE_CAT_MC,
  IE_CAT_ME,
  IE_CAT_ND,
  IE_CAT_NL,
  IE_CAT_NO,
  IE_CAT_PC,
  IE_CAT_PD,
  IE_CAT_PS,
  IE_CAT_PE,
  IE_CAT_PI,
  IE_CAT_PF,
  IE_CAT_PO,
  IE_CAT_SM,
  IE_CAT_SC,
  IE_CAT_SK,
  IE_CAT_SO,
  IE_CAT_ZS,
  IE_CAT_ZL,
  IE_CAT_ZP,
  IE_CAT_CC,
  IE_CAT_CF,
  IE_CAT_CS,
  IE_CAT_CO,
  IE_CAT_CN,
  IE_CAT_COUNT
} ie_category;

enum {
  IE_RUN_CATEGORY = 31, /* mask of the category in a run's low byte */
  IE_RUN_WORD = 32,     /* \w */
  IE_RUN_NEW14 = 64,    /* the category is not that of Unicode 14 */
  IE_RUN_NEW9 = 128,    /* not assigned in Unicode 9 */
  IE_MAX_CODE_POINT = 0x10FFFF
};

/* Runs of code points with equal properties: first << 8 | property byte, ascending, the first at 0. */
extern const uint32_t ie_unicode_runs[];
extern const size_t ie_unicode_run_count;

/* The property byte of a code point (binary search). */
uint8_t ie_unicode_properties(uint32_t code_point);
/* White_Space of Unicode 16: 25 code points. */
bool ie_unicode_space(uint32_t code_point);
/* \w of the Rust regex crate, which decides about single_word. */
bool ie_unicode_word(uint32_t code_point);

/* The length of the well-formed character at p (n >= 1), 0 when it is ill-formed or cut; *code_point is set. */
size_t ie_utf8_decode(const char *p, size_t n, uint32_t *code_point);
/* Writes 1 to 4 bytes; the code point is a scalar value. */
size_t ie_utf8_encode(uint32_t code_point, char out[4]);
/* How many bytes from the start are well-formed UTF-8. */
size_t ie_utf8_valid(const char *p, size_t n);
/* How many bytes at the end of p are a proper prefix of a well-formed character (0 to 3). */
size_t ie_utf8_unfinished(const char *p, size_t n);

/* Bits of a code point for the splitters. */
enum {
  IE_CLASS_LETTER = 1,
  IE_CLASS_UPPER = 2, /* Lu Lt Lm Lo M: o200k's first group */
  IE_CLASS_LOWER = 4, /* Ll Lm Lo M: o200k's second group */
  IE_CLASS_NUMBER = 8,
  IE_CLASS_SPACE = 16,
  IE_CLASS_NEWLINE = 32 /* \r \n */
};

enum { IE_CLASS_BLOCKS = 0x110000 / 256 };

/* A two-stage table from code points to class bits; equal blocks are stored once. */
typedef struct ie_char_classes {
  uint16_t block[IE_CLASS_BLOCKS];
  uint8_t (*bits)[256]; /* (blocks, 256), owned */
} ie_char_classes;

/* NULL when memory is out. */
ie_char_classes *ie_char_classes_new(void);
void ie_char_classes_free(ie_char_classes *classes);

static inline uint8_t ie_char_class(const ie_char_classes *classes, uint32_t code_point) {
  return classes->bits[classes->block[code_point >> 8]][code_point & 255];
}

#endif
