#include "text/pattern.h"

#include "text/split.h"
#include "text/unicode.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>

/* A set of code points by category, plus the two sets that are no union of categories. */
typedef struct point_set {
  uint32_t categories; /* bit = ie_category */
  bool space, word;
} point_set;

#define CAT(x)     (1u << IE_CAT_##x)
#define CAT_LETTER (CAT(LU) | CAT(LL) | CAT(LT) | CAT(LM) | CAT(LO))
#define CAT_MARK   (CAT(MN) | CAT(MC) | CAT(ME))
#define CAT_NUMBER (CAT(ND) | CAT(NL) | CAT(NO))
#define CAT_PUNCT  (CAT(PC) | CAT(PD) | CAT(PS) | CAT(PE) | CAT(PI) | CAT(PF) | CAT(PO))
#define CAT_SYMBOL (CAT(SM) | CAT(SC) | CAT(SK) | CAT(SO))

/* `grows`: from Unicode 14 to 16 the class only gained code points, so PCRE2's own may be widened. */
static const struct {
  char name[3];
  bool grows;
  uint32_t categories;
} properties[] = {
    {"L", true, CAT_LETTER},
    {"Lu", true, CAT(LU)},
    {"Ll", true, CAT(LL)},
    {"Lt", true, CAT(LT)},
    {"Lm", true, CAT(LM)},
    {"Lo", true, CAT(LO)},
    {"M", true, CAT_MARK},
    {"Mn", false, CAT(MN)},
    {"Mc", true, CAT(MC)},
    {"Me", true, CAT(ME)},
    {"N", true, CAT_NUMBER},
    {"Nd", true, CAT(ND)},
    {"Nl", true, CAT(NL)},
    {"No", true, CAT(NO)},
    {"P", true, CAT_PUNCT},
    {"Pc", true, CAT(PC)},
    {"Pd", true, CAT(PD)},
    {"Ps", true, CAT(PS)},
    {"Pe", true, CAT(PE)},
    {"Pi", true, CAT(PI)},
    {"Pf", true, CAT(PF)},
    {"Po", true, CAT(PO)},
    {"S", true, CAT_SYMBOL},
    {"Sm", true, CAT(SM)},
    {"Sc", true, CAT(SC)},
    {"Sk", true, CAT(SK)},
    {"So", true, CAT(SO)},
    {"Zs", false, CAT(ZS)},
    {"Zl", false, CAT(ZL)},
    {"Zp", false, CAT(ZP)},
    {"Cc", false, CAT(CC)},
    {"Cf", false, CAT(CF)},
    {"Cn", false, CAT(CN)},
    {"Co", false, CAT(CO)},
    {"Z", false, CAT(ZS) | CAT(ZL) | CAT(ZP)},
    {"C", false, CAT(CC) | CAT(CF) | CAT(CS) | CAT(CO) | CAT(CN)},
};

typedef struct translator {
  const char *p; /* (size) the pattern */
  size_t size, at;
  bool rust;    /* read as the Rust crates do, else as Oniguruma does */
  int caseless; /* depth of the outermost (?i: group, 0 outside */
  int depth;    /* of groups */
  char literal; /* the literal before, inside (?i:...) */
  ie_buf *out;
  ie_error *error;
  ie_status status;
} translator;

static void refuse(translator *t, size_t at, const char *what) {
  if (t->status != IE_OK) return;
  t->status = ie_error_set(t->error, IE_UNSUPPORTED, "pattern '%.*s': %s at byte %zu is not supported",
                           t->size > 120 ? 120 : (int)t->size, t->p, what, at);
}

static bool set_holds(const point_set *set, uint32_t first, uint32_t run) {
  if (set->categories >> (run & IE_RUN_CATEGORY) & 1) return true;
  if (set->space) return ie_unicode_space(first);
  return set->word && run & IE_RUN_WORD;
}

static void emit_range(ie_buf *out, uint32_t first, uint32_t last) {
  if (first > last) return;
  if (first < 0xE000 && last >= 0xD800) { /* surrogates are no text, and PCRE2 refuses them */
    if (first < 0xD800) emit_range(out, first, 0xD7FF);
    if (last > 0xDFFF) emit_range(out, 0xE000, last);
    return;
  }
  ie_buf_printf(out, first == last ? "\\x{%X}" : "\\x{%X}-\\x{%X}", first, last);
}

/* All code points of the set (or of its complement) as ranges, or those alone that Unicode 14 lacks. */
static void emit_ranges(ie_buf *out, const point_set *set, bool negated, bool only_new) {
  uint32_t start = 0;
  bool inside = false;
  for (size_t i = 0; i < ie_unicode_run_count; i++) {
    uint32_t first = ie_unicode_runs[i] >> 8, run = ie_unicode_runs[i] & 255;
    uint32_t end = i + 1 < ie_unicode_run_count ? ie_unicode_runs[i + 1] >> 8 : IE_MAX_CODE_POINT + 1;
    /* white space is not told by runs: look at each code point of the short ones below U+3001 */
    uint32_t step = set->space && first <= 0x3000 ? 1 : end - first;
    for (uint32_t c = first; c < end; c += step) {
      bool in = set_holds(set, c, run) != negated && (!only_new || run & IE_RUN_NEW14);
      if (in && !inside) start = c;
      if (!in && inside) emit_range(out, start, c - 1);
      inside = in;
    }
  }
  if (inside) emit_range(out, start, IE_MAX_CODE_POINT);
}

/* Whether this PCRE2's classes are those of Unicode 14, 15 or 16: a part of Unicode 16's. */
static bool pcre2_classes_grow(void) {
  char version[64] = "";
  if (pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, NULL) > (int)sizeof version) return false;
  pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, version);
  long major = strtol(version, NULL, 10);
  return major >= 14 && major <= 16;
}

/* The members of a class, to stand between brackets. name: PCRE2's own class, when it may be widened. */
static void emit_members(ie_buf *out, const point_set *set, const char *name, bool negated) {
  if (name && !negated && pcre2_classes_grow()) {
    ie_buf_printf(out, "\\p{%s}", name);
    emit_ranges(out, set, false, /*only_new=*/true);
    return;
  }
  emit_ranges(out, set, negated, false);
  static const uint32_t word_quirks[] = {0xB2, 0xB3, 0xB9, 0xBC, 0xBD, 0xBE}; /* Oniguruma's \w holds them */
  for (size_t i = 0; set->word && !negated && i < sizeof word_quirks / sizeof word_quirks[0]; i++)
    emit_range(out, word_quirks[i], word_quirks[i]);
}

/* Reads \p{..}, \P{..}, \s, \d, \w and their negations at t->at (behind the backslash). */
static bool read_set(translator *t, point_set *set, const char **name, bool *negated) {
  char c = t->p[t->at];
  *set = (point_set){0};
  *name = NULL;
  *negated = c == 'S' || c == 'D' || c == 'W' || c == 'P';
  if (c == 's' || c == 'S') set->space = true;
  if (c == 'd' || c == 'D') set->categories = CAT(ND);
  if (c == 'w' || c == 'W') set->word = true;
  if (c == 'd') *name = "Nd";
  if ((c == 'w' || c == 'W') && (t->rust || c == 'W')) refuse(t, t->at - 1, "\\w or \\W");
  if (set->space || set->word || set->categories) {
    t->at++;
    return true;
  }
  if (c != 'p' && c != 'P') return false;
  size_t i = t->at + 1, start;
  if (i < t->size && t->p[i] == '{') i++;
  if (i < t->size && t->p[i] == '^') {
    *negated = !*negated;
    i++;
  }
  start = i;
  while (i < t->size && t->p[i] != '}' && i - start < 60) i++;
  if (t->at + 1 >= t->size || t->p[t->at + 1] != '{' || i >= t->size || t->p[i] != '}') {
    refuse(t, t->at - 1, "\\p without {name}");
    return true;
  }
  for (size_t k = 0; k < sizeof properties / sizeof properties[0]; k++) {
    if (strlen(properties[k].name) != i - start || memcmp(properties[k].name, t->p + start, i - start) != 0)
      continue;
    set->categories = properties[k].categories;
    if (properties[k].grows) *name = properties[k].name;
    t->at = i + 1;
    return true;
  }
  char what[80];
  snprintf(what, sizeof what, "property %.*s", (int)(i - start), t->p + start);
  refuse(t, start, what);
  return true;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* \xHH, \x{H...} and \uHHHH at t->at. */
static uint32_t read_hex(translator *t) {
  char kind = t->p[t->at++];
  bool braces = t->at < t->size && t->p[t->at] == '{';
  size_t start = t->at + braces, i = start, most = braces ? 6 : kind == 'u' ? 4 : 2;
  uint32_t c = 0;
  while (i < t->size && i - start < most && hex_digit(t->p[i]) >= 0)
    c = c * 16 + (uint32_t)hex_digit(t->p[i++]);
  bool good = i > start && (braces ? i < t->size && t->p[i] == '}' : i - start == most);
  if (!good || (kind == 'x' && !braces && c >= 0x80) || c > IE_MAX_CODE_POINT || (c >= 0xD800 && c < 0xE000))
    refuse(t, start, "this hexadecimal escape");
  t->at = i + braces;
  return c;
}

/* A literal character at t->at, escaped or not. */
static uint32_t read_literal(translator *t) {
  uint32_t c = 0;
  if (t->p[t->at] != '\\') {
    size_t n = ie_utf8_decode(t->p + t->at, t->size - t->at, &c);
    if (n == 0) refuse(t, t->at, "a byte that is not UTF-8");
    t->at += n ? n : 1;
    return c;
  }
  if (++t->at >= t->size) {
    refuse(t, t->at - 1, "a backslash at the end");
    return 0;
  }
  char e = t->p[t->at];
  static const char names[] = "rntfvae", values[] = "\r\n\t\f\v\a\x1B";
  const char *at = strchr(names, e);
  if (e && at) {
    t->at++;
    return (uint32_t)values[at - names];
  }
  if (e == 'x' || e == 'u') return read_hex(t);
  if ((uint8_t)e >= 0x80 || e == '\0' || hex_digit(e) >= 0 || (e >= 'g' && e <= 'z') ||
      (e >= 'G' && e <= 'Z')) {
    char what[] = "the escape \\?";
    what[sizeof what - 2] = (uint8_t)e < 0x20 || (uint8_t)e >= 0x7F ? '?' : e;
    refuse(t, t->at - 1, what);
  }
  t->at++;
  return (uint8_t)e;
}

/* Inside (?i:...) Oniguruma also matches one character for several (ss and U+00DF): refuse what could. */
static void check_caseless(translator *t, uint32_t c, bool in_class) {
  if (!t->caseless) return;
  if (c >= 0x80) refuse(t, t->at, "a character that is not ASCII without case");
  char low = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
  if (!in_class && ((t->literal == 's' && (low == 's' || low == 't')) ||
                    (t->literal == 'f' && (low == 'f' || low == 'i' || low == 'l'))))
    refuse(t, t->at, "a pair of letters with a ligature, without case,");
  t->literal = in_class ? '\0' : low;
}

static void translate_class(translator *t) {
  size_t start = t->at++;
  ie_buf_append_char(t->out, '[');
  if (t->at < t->size && t->p[t->at] == '^') {
    ie_buf_append_char(t->out, '^');
    t->at++;
  }
  if (t->at < t->size && t->p[t->at] == ']') refuse(t, t->at, "] at the start of a class");
  while (t->status == IE_OK && t->at < t->size && t->p[t->at] != ']') {
    point_set set;
    const char *name;
    bool negated;
    if (t->p[t->at] == '[') refuse(t, t->at, "a class inside a class");
    if (t->p[t->at] == '&' && t->at + 1 < t->size && t->p[t->at + 1] == '&')
      refuse(t, t->at, "&& in a class");
    if (t->rust && t->at + 1 < t->size && t->p[t->at] == t->p[t->at + 1] && strchr("-~", t->p[t->at]))
      refuse(t, t->at, "a set operation");
    if (t->p[t->at] == '\\' && t->at + 1 < t->size) {
      t->at++;
      if (read_set(t, &set, &name, &negated)) {
        if (t->caseless) refuse(t, t->at, "a property without case");
        if (t->at + 1 < t->size && t->p[t->at] == '-' && t->p[t->at + 1] != ']')
          refuse(t, t->at, "- after a property");
        emit_members(t->out, &set, name, negated);
        continue;
      }
      t->at--;
    }
    uint32_t first = read_literal(t), last = first;
    if (t->at + 1 < t->size && t->p[t->at] == '-' && t->p[t->at + 1] != ']') {
      t->at++;
      if (t->p[t->at] == '[' ||
          (t->p[t->at] == '\\' && t->at + 1 < t->size && strchr("pPsSdDwW", t->p[t->at + 1])))
        refuse(t, t->at, "a range that ends in a class");
      last = read_literal(t);
      if (last < first) refuse(t, t->at, "a range that runs backwards");
    }
    check_caseless(t, first, true);
    check_caseless(t, last, true);
    emit_range(t->out, first, last);
  }
  if (t->at >= t->size) refuse(t, start, "a class without end");
  ie_buf_append_char(t->out, ']');
  t->at++;
}

static void translate_group(translator *t) {
  static const char *const openings[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
  size_t start = t->at++;
  t->depth++;
  t->literal = '\0';
  if (t->at >= t->size || t->p[t->at] != '?') {
    ie_buf_append_str(t->out, "(?:"); /* nothing reads what it captured */
    return;
  }
  for (size_t i = 0; i < sizeof openings / sizeof openings[0]; i++) {
    size_t n = strlen(openings[i]);
    if (t->size - start < n || memcmp(openings[i], t->p + start, n) != 0) continue;
    ie_buf_append(t->out, openings[i], n);
    if (openings[i][2] == 'i' && !t->caseless) t->caseless = t->depth;
    t->at = start + n;
    return;
  }
  refuse(t, start, "this kind of group");
}

/* {n}, {n,}, {,m}, {n,m}: both engines agree but for {,m}; anything else is a literal brace. */
static void translate_interval(translator *t) {
  size_t i = t->at + 1, comma = 0, digits = 0, start = t->at;
  for (; i < t->size && t->p[i] != '}'; i++) {
    if (t->p[i] == ',' && !comma)
      comma = i;
    else if (t->p[i] >= '0' && t->p[i] <= '9')
      digits++;
    else
      break;
  }
  if (i >= t->size || t->p[i] != '}' || digits == 0) {
    ie_buf_append_str(t->out, "\\{");
    t->at++;
    return;
  }
  ie_buf_append_str(t->out, comma == start + 1 ? "{0" : "{");
  ie_buf_append(t->out, t->p + start + 1, i - start);
  t->at = i + 1;
  if (t->at < t->size && strchr("+*{", t->p[t->at])) refuse(t, t->at, "a quantifier after {}");
  if (t->at < t->size && t->p[t->at] == '?') {
    if (!comma) refuse(t, t->at, "{n}?");
    ie_buf_append_char(t->out, '?');
    t->at++;
  }
}

static void translate_escape(translator *t) {
  point_set set;
  const char *name;
  bool negated;
  size_t start = t->at++;
  if (t->at < t->size && read_set(t, &set, &name, &negated)) {
    if (t->caseless) refuse(t, start, "a property without case");
    ie_buf_append_str(t->out, negated ? "[^" : "[");
    emit_members(t->out, &set, name, false);
    ie_buf_append_char(t->out, ']');
    return;
  }
  if (t->at < t->size && (t->p[t->at] == 'A' || t->p[t->at] == 'z')) { /* ends of the text, in all engines */
    ie_buf_printf(t->out, "\\%c", t->p[t->at++]);
    return;
  }
  t->at = start;
  uint32_t c = read_literal(t);
  check_caseless(t, c, false);
  ie_buf_printf(t->out, "\\x{%X}", c);
}

static void translate_one(translator *t) {
  char c = t->p[t->at];
  if (strchr("\\[({^$.|)*+?", c) && c && c != '\\') t->literal = '\0';
  switch (c) {
  case '\\': translate_escape(t); return;
  case '[': translate_class(t); return;
  case '(': translate_group(t); return;
  case '{': translate_interval(t); return;
  case '^':
  case '$': refuse(t, t->at, c == '^' ? "^" : "$"); return;
  case ')':
    if (t->caseless == t->depth) t->caseless = 0;
    t->depth--;
    break;
  case '.':
  case '|':
  case '*':
  case '+':
  case '?': break;
  default: {
    uint32_t point = read_literal(t);
    check_caseless(t, point, false);
    ie_buf_printf(t->out, "\\x{%X}", point);
    return;
  }
  }
  ie_buf_append_char(t->out, c);
  t->at++;
}

ie_status ie_pattern_translate(const char *pattern, size_t size, bool rust, ie_buf *out, ie_error *error) {
  translator t = {.p = pattern, .size = size, .rust = rust, .out = out, .error = error};
  while (t.status == IE_OK && t.at < size) translate_one(&t);
  if (t.status == IE_OK && out->failed)
    t.status = ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a pattern");
  return t.status;
}

ie_status ie_pattern_compile(const char *pattern, size_t size, bool rust, void **out, ie_error *error) {
  *out = NULL;
  ie_buf text = {0};
  ie_status status = ie_pattern_translate(pattern, size, rust, &text, error);
  if (status == IE_OK) {
    int code = 0;
    PCRE2_SIZE at = 0;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context) pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_code *regex =
        context ? pcre2_compile((PCRE2_SPTR)(text.data ? text.data : ""), text.size,
                                PCRE2_UTF | PCRE2_NO_UTF_CHECK | PCRE2_NEVER_BACKSLASH_C, &code, &at, context)
                : NULL;
    pcre2_compile_context_free(context);
    if (!regex && (!context || code == PCRE2_ERROR_HEAP_FAILED)) {
      status = ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a pattern");
    } else if (!regex) {
      PCRE2_UCHAR message[128] = "";
      pcre2_get_error_message(code, message, sizeof message);
      status = ie_error_set(error, IE_FORMAT, "pattern '%.*s': %s", size > 120 ? 120 : (int)size, pattern,
                            message);
    } else {
      (void)pcre2_jit_compile(regex, PCRE2_JIT_COMPLETE); /* without the JIT the interpreter runs it */
      *out = regex;
    }
  }
  ie_buf_free(&text);
  return status;
}

void ie_pattern_free(void *regex) {
  pcre2_code_free(regex);
}

void ie_pattern_state_free(ie_split_state *state) {
  pcre2_match_data_free(state->match);
  pcre2_match_context_free(state->context);
  pcre2_jit_stack_free(state->stack);
}

enum { MATCH_LIMIT_BASE = 1000000, MATCH_LIMIT_BYTE = 64 };

static ie_status state_open(ie_split_state *state, ie_error *error) {
  enum { JIT_STACK_START = 32 * 1024, JIT_STACK_MAX = 64 * 1024 * 1024 };
  if (!state->match) state->match = pcre2_match_data_create(1, NULL);
  if (!state->context) state->context = pcre2_match_context_create(NULL);
  if (!state->stack) state->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL);
  if (!state->match || !state->context)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a pattern");
  if (state->stack) pcre2_jit_stack_assign(state->context, NULL, state->stack);
  return IE_OK;
}

ie_status ie_pattern_match(const void *regex, ie_split_state *state, const char *text, size_t size,
                           size_t from, ie_range *out, ie_error *error) {
  ie_status status = state->match && state->context ? IE_OK : state_open(state, error);
  if (status != IE_OK) return status;
  /* A pattern that backtracks without end is stopped, a long text is not. */
  const uint64_t limit = MATCH_LIMIT_BASE + MATCH_LIMIT_BYTE * (uint64_t)size;
  pcre2_set_match_limit(state->context, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
  int rc = pcre2_match(regex, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, state->match, state->context);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
    rc = pcre2_match(regex, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, state->match,
                     state->context);
  if (rc == PCRE2_ERROR_NOMATCH) {
    out->start = out->end = size;
    return IE_OK;
  }
  if (rc < 0) {
    PCRE2_UCHAR message[128] = "";
    pcre2_get_error_message(rc, message, sizeof message);
    return ie_error_set(
        error, rc == PCRE2_ERROR_NOMEMORY || rc == PCRE2_ERROR_HEAPLIMIT ? IE_OUT_OF_MEMORY : IE_LIMIT,
        "pattern matching stopped at byte %zu of %zu: %s", from, size, (char *)message);
  }
  const PCRE2_SIZE *range = pcre2_get_ovector_pointer(state->match);
  out->start = range[0];
  out->end = range[1];
  return IE_OK;
}
