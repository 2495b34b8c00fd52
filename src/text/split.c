#include "text/split.h"

#include "text/pattern.h"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER        "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER        "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"

const char ie_split_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char ie_split_llama3_pattern[] =
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
                 "\\s+(?!\\S)|\\s+";
const char ie_split_qwen_pattern[] =
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
                 "\\s+(?!\\S)|\\s+";
const char ie_split_nanochat_pattern[] =
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,2}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"
    "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+";
static const char cl100k_pattern[] =
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"
    "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+";
const char ie_split_o200k_pattern[] =
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" CONTRACTIONS "?|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER
    "*" CONTRACTIONS "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* Patterns that mean what a family does. Possessive quantifiers and `\s*[\r\n]` without plus change nothing:
 * the classes around them are disjoint, and `\s*` gives back only up to the last line break of a run. */
static const struct {
  const char *pattern;
  ie_split_family family;
  int digits;
} families[] = {
    {ie_split_gpt2_pattern, IE_FAMILY_GPT2, 0},   {ie_split_llama3_pattern, IE_FAMILY_CL100K, 3},
    {ie_split_qwen_pattern, IE_FAMILY_CL100K, 1}, {ie_split_nanochat_pattern, IE_FAMILY_CL100K, 2},
    {cl100k_pattern, IE_FAMILY_CL100K, 3},        {ie_split_o200k_pattern, IE_FAMILY_O200K, 3},
};

ie_status ie_splitter_open(const ie_image_stage *stage, const char *strings, bool no_family, ie_splitter *out,
                           ie_error *error) {
  *out = (ie_splitter){.stage = stage, .text = strings + stage->text.offset};
  if (stage->kind != IE_STAGE_REGEX) return IE_OK;
  for (size_t i = 0; i < sizeof families / sizeof families[0] && !no_family; i++) {
    if (strlen(families[i].pattern) != stage->text.size ||
        memcmp(families[i].pattern, out->text, stage->text.size) != 0)
      continue;
    out->family = families[i].family;
    out->digits = families[i].digits;
    return IE_OK;
  }
  return ie_pattern_compile(out->text, stage->text.size, stage->rust, &out->regex, error);
}

void ie_splitter_close(ie_splitter *splitter) {
  ie_pattern_free(splitter->regex);
  *splitter = (ie_splitter){0};
}

void ie_split_state_free(ie_split_state *state) {
  ie_pattern_state_free(state);
  *state = (ie_split_state){0};
}

/* A position in well-formed text: the class bits and size of the character there; size 0 at the end. */
typedef struct cursor {
  const char *p, *end;
  const ie_char_classes *classes;
  size_t size;
  uint8_t bits;
} cursor;

static inline void cursor_look(cursor *c) {
  if (c->p == c->end) {
    c->size = 0;
    c->bits = 0;
    return;
  }
  uint8_t lead = (uint8_t)*c->p;
  if (lead < 0x80) {
    c->size = 1;
    c->bits = c->classes->bits[c->classes->block[0]][lead];
    return;
  }
  uint32_t code_point = 0;
  c->size = ie_utf8_decode(c->p, (size_t)(c->end - c->p), &code_point);
  c->bits = ie_char_class(c->classes, code_point);
}

static inline void cursor_next(cursor *c) {
  c->p += c->size;
  cursor_look(c);
}

static inline cursor cursor_at(cursor c, const char *p) {
  c.p = p;
  cursor_look(&c);
  return c;
}

/* Moves over characters that have any of `bits`. */
static inline void cursor_skip(cursor *c, uint8_t bits) {
  while (c->bits & bits) cursor_next(c);
}

/* Moves over characters that have none of `bits`. */
static inline void cursor_skip_not(cursor *c, uint8_t bits) {
  while (c->size && !(c->bits & bits)) cursor_next(c);
}

/* The size of 's 't 're 've 'm 'll 'd at p, or 0; without case also U+017F, which folds to s. */
static size_t contraction_size(const char *p, const char *end, bool any_case) {
  if (end - p < 2 || p[0] != '\'') return 0;
  char a = p[1], b = end - p > 2 ? p[2] : '\0';
  if (any_case) {
    if ((uint8_t)a == 0xC5 && (uint8_t)b == 0xBF) return 3;
    if (a >= 'A' && a <= 'Z') a = (char)(a + 32);
    if (b >= 'A' && b <= 'Z') b = (char)(b + 32);
  }
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* `\s*[\r\n]+|\s+(?!\S)|\s+` (or without the first) at white space. */
static const char *space_end(cursor c, bool line_breaks) {
  const char *last = c.p, *after_break = NULL;
  while (c.bits & IE_CLASS_SPACE) {
    if (line_breaks && c.bits & IE_CLASS_NEWLINE) after_break = c.p + c.size;
    last = c.p;
    cursor_next(&c);
  }
  if (after_break) return after_break;
  return c.size == 0 ? c.p : last; /* all of a run at the end, else all but its last character */
}

static const char *space_piece(cursor c, bool line_breaks) {
  const char *end = space_end(c, line_breaks);
  return end == c.p ? c.p + c.size : end; /* a single white space before something else: `\s+` */
}

enum { SPACE_LETTER_NUMBER = IE_CLASS_SPACE | IE_CLASS_LETTER | IE_CLASS_NUMBER };

static inline bool is_lower(char c) {
  return (uint8_t)(c - 'a') < 26;
}
static inline bool is_upper(char c) {
  return (uint8_t)(c - 'A') < 26;
}

/* Most pieces of most texts: ASCII letters with one other character before them, or none. Returns the end of the
 * letters (camel: stops before a capital that follows small ones), or NULL where the general way must be gone:
 * anything that is not ASCII may belong to the word. */
static inline const char *ascii_word_end(const char *p, const char *end, bool camel) {
  const char *start = p;
  if (camel) {
    while (p < end && is_upper(*p)) p++;
    while (p < end && is_lower(*p)) p++;
  } else {
    while (p < end && is_lower((char)(*p | 0x20))) p++;
  }
  return p == start || (p < end && (uint8_t)*p >= 0x80) ? NULL : p;
}

/* Whether c may stand before a word: ASCII, neither letter, digit nor line break. */
static inline bool is_ascii_prefix(char c) {
  return (uint8_t)c < 0x80 && !is_lower((char)(c | 0x20)) && (uint8_t)(c - '0') >= 10 && c != '\r' &&
         c != '\n';
}

static const char *gpt2_next(cursor c) {
  const char *word = ascii_word_end(c.p + (*c.p == ' '), c.end, /*camel=*/false);
  if (word) return word;
  size_t contraction = contraction_size(c.p, c.end, /*any_case=*/false);
  if (contraction) return c.p + contraction;
  cursor_look(&c);
  cursor q = *c.p == ' ' ? cursor_at(c, c.p + 1) : c;
  if (q.size && !(q.bits & IE_CLASS_SPACE)) {
    if (q.bits & IE_CLASS_LETTER)
      cursor_skip(&q, IE_CLASS_LETTER);
    else if (q.bits & IE_CLASS_NUMBER)
      cursor_skip(&q, IE_CLASS_NUMBER);
    else
      cursor_skip_not(&q, SPACE_LETTER_NUMBER);
    return q.p;
  }
  return space_piece(c, /*line_breaks=*/false);
}

/* What cl100k and o200k share after the words: numbers, other characters, white space. */
static const char *tail_next(cursor c, int digits, bool slash) {
  if (c.bits & IE_CLASS_NUMBER) {
    for (int i = 0; i < digits && c.bits & IE_CLASS_NUMBER; i++) cursor_next(&c);
    return c.p;
  }
  cursor q = *c.p == ' ' ? cursor_at(c, c.p + 1) : c;
  if (q.size && !(q.bits & SPACE_LETTER_NUMBER)) {
    cursor_skip_not(&q, SPACE_LETTER_NUMBER);
    const char *p = q.p;
    while (p < c.end && (*p == '\r' || *p == '\n' || (slash && *p == '/'))) p++;
    return p;
  }
  return space_piece(c, /*line_breaks=*/true);
}

static const char *cl100k_next(cursor c, int digits) {
  size_t contraction = contraction_size(c.p, c.end, /*any_case=*/true);
  if (contraction) return c.p + contraction;
  const char *word = ascii_word_end(c.p + is_ascii_prefix(*c.p), c.end, /*camel=*/false);
  if (word) return word;
  cursor_look(&c);
  cursor q = c;
  if (!(c.bits & (IE_CLASS_LETTER | IE_CLASS_NUMBER | IE_CLASS_NEWLINE))) cursor_next(&q);
  if (q.bits & IE_CLASS_LETTER) {
    cursor_skip(&q, IE_CLASS_LETTER);
    return q.p;
  }
  return tail_next(c, digits, /*slash=*/false);
}

/* `UPPER*LOWER+` at c, or NULL. UPPER* takes all it can; when no LOWER follows it gives back up to the last
 * character that is in both classes. */
static const char *upper_lower_end(cursor c) {
  const char *both = NULL;
  while (c.bits & IE_CLASS_UPPER) {
    bool lower = c.bits & IE_CLASS_LOWER;
    cursor_next(&c);
    if (lower) both = c.p;
  }
  if (!(c.bits & IE_CLASS_LOWER)) return both;
  cursor_skip(&c, IE_CLASS_LOWER);
  return c.p;
}

/* `UPPER+LOWER*` at c where `UPPER*LOWER+` failed, so that no LOWER follows; or NULL. */
static const char *upper_end(cursor c) {
  const char *start = c.p;
  cursor_skip(&c, IE_CLASS_UPPER);
  return c.p == start ? NULL : c.p;
}

static const char *o200k_next(cursor c, int digits) {
  const char *word = ascii_word_end(c.p + is_ascii_prefix(*c.p), c.end, /*camel=*/true);
  if (word)
    return word < c.end && *word == '\'' ? word + contraction_size(word, c.end, /*any_case=*/true) : word;
  cursor_look(&c);
  cursor q = c;
  bool prefix = !(c.bits & (IE_CLASS_LETTER | IE_CLASS_NUMBER | IE_CLASS_NEWLINE));
  if (prefix) cursor_next(&q);
  const char *end = upper_lower_end(q);
  if (!end && prefix) end = upper_lower_end(c);
  if (!end) end = upper_end(q);
  if (!end && prefix) end = upper_end(c);
  if (end) return end + contraction_size(end, c.end, /*any_case=*/true);
  return tail_next(c, digits, /*slash=*/true);
}

size_t ie_split_family_next(const ie_splitter *splitter, const ie_char_classes *classes, const char *p,
                            size_t n) {
  cursor c = {.p = p, .end = p + n, .classes = classes};
  switch (splitter->family) {
  case IE_FAMILY_GPT2: return (size_t)(gpt2_next(c) - p);
  case IE_FAMILY_CL100K: return (size_t)(cl100k_next(c, splitter->digits) - p);
  case IE_FAMILY_O200K: return (size_t)(o200k_next(c, splitter->digits) - p);
  case IE_FAMILY_NONE: break;
  }
  return n;
}

ie_status ie_split_match(const ie_splitter *splitter, ie_split_state *state, const char *text, size_t size,
                         size_t from, ie_range *out, ie_error *error) {
  if (splitter->stage->kind == IE_STAGE_REGEX)
    return ie_pattern_match(splitter->regex, state, text, size, from, out, error);
  const char *at = memmem(text + from, size - from, splitter->text, splitter->stage->text.size);
  out->start = at ? (size_t)(at - text) : size;
  out->end = at ? out->start + splitter->stage->text.size : size;
  return IE_OK;
}
