#include "text/normalize.h"

#include "text/unicode.h"

#include <stdlib.h>
#include <utf8proc.h>

/* One character on its way: code point, canonical combining class, and how many characters of the input it
 * stands for (0: it was added by a decomposition). */
typedef struct normal_char {
  uint32_t code_point;
  uint32_t consumed;
  uint32_t order; /* class << 24 | position: what combining marks are sorted by */
} normal_char;

typedef struct normal_state {
  ie_normalizer form;
  ie_buf chars; /* normal_char: the stretch in work */
  ie_buf *out;
  ie_buf *map; /* ie_span, or NULL */
} normal_state;

static bool form_composes(ie_normalizer form) {
  return form == IE_NORM_NFC || form == IE_NORM_NFKC;
}

static uint32_t char_class(uint32_t c) {
  if (c < 0x300) return 0;
  uint32_t ccc = (uint32_t)utf8proc_get_property((utf8proc_int32_t)c)->combining_class;
  return ccc && ie_unicode_properties(c) & IE_RUN_NEW9 ? 0 : ccc;
}

/* Whether c stays as it is and what follows cannot depend on what stood before it. May be false for such a
 * character, never true for another. */
static bool char_is_safe(ie_normalizer form, uint32_t c) {
  if (c < 0x80 || (c < 0x300 && form == IE_NORM_NFC)) return true;
  if (c >= 0x4E00 && c < 0xA000) return true; /* unified ideographs: most of what is left */
  if (c >= 0xAC00 && c <= 0xD7A3) return form_composes(form);
  if ((c >= 0x1161 && c <= 0x1175) || (c >= 0x11A8 && c <= 0x11C2))
    return false; /* joins the jamo before it */
  uint8_t properties = ie_unicode_properties(c);
  if (properties & IE_RUN_NEW9) return true;
  uint8_t category = properties & IE_RUN_CATEGORY;
  if (category >= IE_CAT_MN && category <= IE_CAT_ME) return false; /* may join the character before it */
  return utf8proc_get_property((utf8proc_int32_t)c)->decomp_seqindex == UINT16_MAX;
}

/* The composition of two characters, or 0. */
static uint32_t char_compose(uint32_t a, uint32_t b) {
  if (ie_unicode_properties(a) & IE_RUN_NEW9 || ie_unicode_properties(b) & IE_RUN_NEW9) return 0;
  utf8proc_int32_t pair[3] = {(utf8proc_int32_t)a, (utf8proc_int32_t)b, 0};
  if (utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE) != 1) return 0;
  uint32_t c = (uint32_t)pair[0];
  return ie_unicode_properties(c) & IE_RUN_NEW9 ? 0 : c;
}

/* Appends the full decomposition of c. */
static bool chars_push(normal_state *state, uint32_t c) {
  enum { MAX_DECOMPOSITION = 32 }; /* the longest is 18 (U+FDFA) */
  utf8proc_int32_t parts[MAX_DECOMPOSITION] = {(utf8proc_int32_t)c};
  utf8proc_ssize_t count = 1;
  if (c >= 0xA0 && !(ie_unicode_properties(c) & IE_RUN_NEW9)) {
    bool compat = state->form == IE_NORM_NFKC || state->form == IE_NORM_NFKD;
    int last_class = 0;
    count = utf8proc_decompose_char((utf8proc_int32_t)c, parts, MAX_DECOMPOSITION,
                                    compat ? UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT : UTF8PROC_DECOMPOSE,
                                    &last_class);
    if (count < 1 || count > MAX_DECOMPOSITION) { /* defensive: as it stands */
      parts[0] = (utf8proc_int32_t)c;
      count = 1;
    }
  }
  for (utf8proc_ssize_t i = 0; i < count; i++) {
    normal_char x = {.code_point = (uint32_t)parts[i], .consumed = i == 0};
    if (!ie_buf_append(&state->chars, &x, sizeof x)) return false;
  }
  return true;
}

static int chars_order(const void *a, const void *b) {
  const normal_char *x = a, *y = b;
  return (x->order > y->order) - (x->order < y->order);
}

/* Sorts each run of combining marks by class, stably. Runs beyond 2^24 marks keep their order in part. */
static void chars_reorder(normal_char *chars, size_t count) {
  for (size_t i = 0; i < count;) {
    uint32_t ccc = char_class(chars[i].code_point);
    if (ccc == 0) {
      chars[i++].order = 0;
      continue;
    }
    size_t first = i;
    bool sorted = true;
    uint32_t last = 0;
    for (; i < count && (ccc = char_class(chars[i].code_point)) != 0 && i - first < (1u << 24); i++) {
      chars[i].order = ccc << 24 | (uint32_t)(i - first);
      sorted = sorted && ccc >= last;
      last = ccc;
    }
    if (!sorted) qsort(chars + first, i - first, sizeof *chars, chars_order);
  }
}

/* Composes in place and returns the new count: the algorithm of the Unicode standard, section 3.11 (D117). */
static size_t chars_compose(normal_char *chars, size_t count) {
  size_t n = 0, starter = SIZE_MAX;
  uint32_t last_class = 0; /* of the character before, when it is not the starter itself */
  for (size_t i = 0; i < count; i++) {
    normal_char x = chars[i];
    uint32_t ccc = x.order >> 24;
    bool adjacent = starter != SIZE_MAX && n == starter + 1;
    if (starter != SIZE_MAX && (adjacent || last_class < ccc)) {
      uint32_t c = char_compose(chars[starter].code_point, x.code_point);
      if (c) {
        chars[starter].code_point = c;
        chars[starter].consumed += x.consumed;
        continue;
      }
    }
    if (ccc == 0) starter = n;
    last_class = ccc;
    chars[n++] = x;
  }
  return n;
}

static bool state_emit(normal_state *state, const char *bytes, size_t size, ie_span span) {
  if (!ie_buf_append(state->out, bytes, size)) return false;
  for (size_t i = 0; state->map && i < size; i++)
    if (!ie_buf_append(state->map, &span, sizeof span)) return false;
  return true;
}

static size_t char_size(char lead) {
  uint8_t b = (uint8_t)lead;
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

/* Normalises one stretch of well-formed text. Spans are dealt out as the reference does it: in the order of
 * the result, each character takes as many of the input as it stands for and reports the first of them; one
 * that stands for none reports what the one before it does. */
static bool state_stretch(normal_state *state, ie_normal_text text) {
  ie_buf_clear(&state->chars);
  for (size_t i = 0; i < text.size;) {
    uint32_t c;
    i += ie_utf8_decode(text.bytes + i, text.size - i, &c);
    if (!chars_push(state, c)) return false;
  }
  normal_char *chars = (normal_char *)(void *)state->chars.data;
  size_t count = state->chars.size / sizeof *chars;
  chars_reorder(chars, count);
  if (form_composes(state->form)) count = chars_compose(chars, count);
  size_t at = 0, before = 0;
  for (size_t k = 0; k < count; k++) {
    char utf8[4];
    size_t size = ie_utf8_encode(chars[k].code_point, utf8);
    ie_span span = {0};
    if (text.map) span = text.map[chars[k].consumed ? at : before];
    if (!state_emit(state, utf8, size, span)) return false;
    for (uint32_t n = chars[k].consumed; n > 0; n--) {
      before = at;
      at += char_size(text.bytes[at]);
    }
  }
  return true;
}

static bool state_copy(normal_state *state, ie_normal_text text, size_t from, size_t to) {
  if (!ie_buf_append(state->out, text.bytes + from, to - from)) return false;
  return !state->map || from == to ||
         ie_buf_append(state->map, text.map + from, (to - from) * sizeof *text.map);
}

static ie_normal_text text_part(ie_normal_text text, size_t from, size_t to) {
  return (ie_normal_text){
      .bytes = text.bytes + from, .size = to - from, .map = text.map ? text.map + from : NULL};
}

/* One form over a whole text: safe characters and ill-formed bytes are copied in long pieces; a stretch starts
 * at the last safe character before an unsafe one and ends before the next safe one. */
static bool state_run(normal_state *state, ie_normal_text text) {
  size_t copied = 0, safe = 0; /* text before `copied` is done; the last safe character starts at `safe` */
  for (size_t i = 0; i < text.size;) {
    uint32_t c;
    size_t size = ie_utf8_decode(text.bytes + i, text.size - i, &c);
    if (size == 0) {
      safe = ++i;
      continue;
    }
    if (char_is_safe(state->form, c)) {
      safe = i;
      i += size;
      continue;
    }
    size_t end = i + size;
    while (end < text.size && (size = ie_utf8_decode(text.bytes + end, text.size - end, &c)) != 0 &&
           !char_is_safe(state->form, c))
      end += size;
    if (safe < copied) safe = copied;
    if (!state_copy(state, text, copied, safe) || !state_stretch(state, text_part(text, safe, end)))
      return false;
    copied = safe = i = end;
  }
  return state_copy(state, text, copied, text.size);
}

ie_status ie_normalize(const uint8_t normalizers[IE_MAX_NORMALIZERS], ie_normal_text text, ie_buf *out,
                       ie_buf *map, ie_error *error) {
  ie_buf bytes[2] = {{0}, {0}}, spans[2] = {{0}, {0}};
  normal_state state = {0};
  bool ok = true;
  if (normalizers[0] == 0)
    ok = ie_buf_append(out, text.bytes, text.size) &&
         (!text.map || ie_buf_append(map, text.map, text.size * sizeof *text.map));
  for (int i = 0; i < IE_MAX_NORMALIZERS && normalizers[i] && ok; i++) {
    bool last = i + 1 == IE_MAX_NORMALIZERS || normalizers[i + 1] == 0;
    ie_buf *to = &bytes[i & 1], *to_map = &spans[i & 1];
    ie_buf_clear(to);
    ie_buf_clear(to_map);
    state.form = (ie_normalizer)normalizers[i];
    state.out = last ? out : to;
    state.map = !text.map ? NULL : last ? map : to_map;
    ok = state_run(&state, text);
    if (!last && ok)
      text = (ie_normal_text){.bytes = to->data ? to->data : "",
                              .size = to->size,
                              .map = text.map ? (const ie_span *)(const void *)to_map->data : NULL};
  }
  ie_buf_free(&state.chars);
  for (int i = 0; i < 2; i++) {
    ie_buf_free(&bytes[i]);
    ie_buf_free(&spans[i]);
  }
  return ok ? IE_OK : ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory while normalising text");
}

bool ie_normalize_is_idle(const uint8_t normalizers[IE_MAX_NORMALIZERS], const char *text, size_t size) {
  if (!normalizers[0]) return true;
  uint8_t bound = 0xCC; /* NFC leaves everything below U+0300 alone; U+0300 begins with CC */
  for (int i = 0; i < IE_MAX_NORMALIZERS && normalizers[i]; i++)
    if (normalizers[i] != IE_NORM_NFC) bound = 0x80;
  uint8_t top = 0;
  for (size_t i = 0; i < size; i++) top = (uint8_t)text[i] > top ? (uint8_t)text[i] : top;
  return top < bound;
}
