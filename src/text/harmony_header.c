/* Headers that a model wrote. A well-formed one is read as the library reads it; all else is repaired, says so, and
 * loses no word: what fits nowhere is kept as `stray`. */
#include "base/size.h"
#include "text/harmony.h"
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

/* ---- items ---- */

bool harmony_items_add(harmony_items *items, harmony_item_kind kind, const char *bytes, size_t size) {
  size_t start = items->raw.size;
  if (!ie_buf_append(&items->raw, bytes, size)) return false;
  harmony_item *last = items->count ? &items->items[items->count - 1] : NULL;
  if (kind == HARMONY_TEXT && last && last->kind == HARMONY_TEXT) {
    last->size += size;
    return true;
  }
  if (items->count == items->capacity) {
    size_t capacity = items->capacity ? 2 * items->capacity : 16, total;
    harmony_item *grown = ie_size_mul(capacity, sizeof *grown, &total) ? realloc(items->items, total) : NULL;
    if (!grown) return false;
    items->items = grown;
    items->capacity = capacity;
  }
  items->items[items->count++] = (harmony_item){.kind = kind, .start = start, .size = size};
  return true;
}

void harmony_items_clear(harmony_items *items) {
  ie_buf_clear(&items->raw);
  items->count = 0;
}

void harmony_items_free(harmony_items *items) {
  ie_buf_free(&items->raw);
  free(items->items);
  *items = (harmony_items){0};
}

/* The length of what separates words at p: white space, a control character, an ill-formed byte (*bad); else 0. */
static size_t separator_length(const char *p, size_t n, bool *bad) {
  uint32_t c;
  size_t length = ie_utf8_decode(p, n, &c);
  if (!length) *bad = true;
  if (!length) return 1;
  return c < 0x20 || c == 0x7F || ie_unicode_space(c) ? length : 0;
}

static size_t separators_length(const char *p, size_t n, bool *bad) {
  size_t at = 0;
  while (at < n) {
    size_t length = separator_length(p + at, n - at, bad);
    if (!length) break;
    at += length;
  }
  return at;
}

static size_t word_length(const char *p, size_t n) {
  size_t at = 0;
  uint32_t c;
  bool bad;
  while (at < n && !separator_length(p + at, n - at, &bad)) at += ie_utf8_decode(p + at, n - at, &c);
  return at;
}

bool harmony_items_blank(const harmony_items *items) {
  bool bad = false;
  for (size_t i = 0; i < items->count; i++) {
    const harmony_item *item = &items->items[i];
    if (item->kind != HARMONY_TEXT) return false;
    if (separators_length(items->raw.data + item->start, item->size, &bad) < item->size) return false;
  }
  return !bad;
}

/* ---- words ---- */

typedef struct header_reader {
  harmony_header *h;
  bool role_open;                  /* the author is still to be read */
  bool started;                    /* a <|start|> stands before the header */
  bool first_word;                 /* no word was read yet */
  bool after_channel;              /* a <|channel|> was seen */
  bool want_channel;               /* the next word is its name */
  bool want_type;                  /* the next word belongs to <|constrain|> */
  bool want_name;                  /* a bare "to=" was read: the next word is the recipient */
  ie_buf loose;                    /* words not explained yet, joined by spaces */
  size_t loose_count, loose_first; /* how many, bytes of the first */
  bool loose_early;                /* one of them stands before the channel */
} header_reader;

/* ie_buf_clear would forget that an allocation failed. */
static void set(ie_buf *field, const char *text, size_t size) {
  field->size = 0;
  ie_buf_append(field, text, size);
}

static void add_word(ie_buf *list, const char *text, size_t size) {
  if (!size) return;
  if (list->size) ie_buf_append_char(list, ' ');
  ie_buf_append(list, text, size);
}

static void add_stray(header_reader *r, const char *text, size_t size) {
  add_word(&r->h->stray, text, size);
  r->h->malformed = true;
}

static bool starts_with(const char *text, size_t size, const char *prefix) {
  size_t n = strlen(prefix);
  return size >= n && memcmp(text, prefix, n) == 0;
}

/* A role, or role:name. False when the word is neither. */
static bool read_author(harmony_header *h, const char *text, size_t size) {
  const char *colon = memchr(text, ':', size);
  size_t length = colon ? (size_t)(colon - text) : size;
  const char *role = harmony_role(text, length);
  if (!role) return false;
  h->role = role;
  if (colon) set(&h->name, colon + 1, size - length - 1);
  return true;
}

static void set_type(header_reader *r, bool constrained, const char *text, size_t size) {
  harmony_header *h = r->h;
  if (!h->recipient.size) h->malformed = true; /* only a call has a type */
  bool bare = h->content_type.size == strlen(HARMONY_CONSTRAIN) &&
              memcmp(h->content_type.data, HARMONY_CONSTRAIN, h->content_type.size) == 0;
  if (h->content_type.size && !(bare && constrained)) {
    add_stray(r, text, size);
    return;
  }
  if (bare) h->malformed = true;
  h->content_type.size = 0;
  if (constrained) ie_buf_append_str(&h->content_type, HARMONY_CONSTRAIN);
  ie_buf_append(&h->content_type, text, size);
}

static void set_recipient(header_reader *r, const char *text, size_t size) {
  harmony_header *h = r->h;
  if (h->recipient.size) { /* the last counts, as in the library */
    add_stray(r, "to=", 3);
    ie_buf_append(&h->stray, h->recipient.data, h->recipient.size);
  }
  if (!size) {
    r->want_name = true;
    h->malformed = true;
    return;
  }
  set(&h->recipient, text, size);
}

/* A mark or the end: what still waited for a word goes without. */
static void end_waiting(header_reader *r) {
  if (r->want_type) set_type(r, /*constrained=*/true, "", 0);
  if (r->want_channel) r->h->malformed = true;
  r->want_type = r->want_channel = false;
}

/* The name of the channel: it ends at a '<'. Returns how many bytes of the word it took. */
static size_t read_channel(header_reader *r, const char *text, size_t size) {
  const char *end = memchr(text, '<', size);
  size_t length = end ? (size_t)(end - text) : size;
  r->want_channel = false;
  if (!length) r->h->malformed = true;
  if (r->h->channel.size) {
    add_stray(r, text, length);
  } else {
    set(&r->h->channel, text, length);
  }
  return length;
}

/* The word that names the author. False when it is none, and is an ordinary word. */
static bool read_role(header_reader *r, const char *text, size_t size) {
  harmony_header *h = r->h;
  r->role_open = false;
  if (read_author(h, text, size)) return true;
  if (!r->started || r->after_channel || starts_with(text, size, "to=")) {
    h->malformed = true; /* no author: the assistant goes on */
    return false;
  }
  h->role = "tool";
  set(&h->name, text, size);
  return true;
}

static void read_plain(header_reader *r, const char *text, size_t size) {
  harmony_header *h = r->h;
  if (r->want_name) {
    r->want_name = false;
    set(&h->recipient, text, size);
  } else if (h->recipient.size && !h->content_type.size) {
    set_type(r, /*constrained=*/false, text, size);
  } else if (h->recipient.size || h->content_type.size) {
    add_stray(r, text, size);
  } else {
    if (!r->loose_count) r->loose_first = size;
    if (!r->after_channel) r->loose_early = true;
    r->loose_count++;
    add_word(&r->loose, text, size);
  }
}

static void read_word(header_reader *r, const char *text, size_t size, bool spaced) {
  if (r->want_channel) {
    if (spaced) r->h->malformed = true;
    size_t taken = read_channel(r, text, size);
    text += taken;
    size -= taken;
    if (!size) return;
  }
  bool addressed = starts_with(text, size, "to=");
  if (r->want_type && !(spaced && addressed)) {
    r->want_type = false;
    set_type(r, /*constrained=*/true, text, size);
    return;
  }
  end_waiting(r);
  bool first = r->first_word;
  r->first_word = false;
  if (r->role_open) {
    if (read_role(r, text, size)) return;
  } else if (first && strlen(r->h->role) == size && memcmp(r->h->role, text, size) == 0) {
    return; /* the role that the prompt has given stands there once more */
  }
  if (addressed) {
    set_recipient(r, text + 3, size - 3);
  } else {
    read_plain(r, text, size);
  }
}

static void read_text(header_reader *r, const char *text, size_t size) {
  bool bad = false;
  size_t at = 0;
  while (at < size) {
    size_t space = separators_length(text + at, size - at, &bad);
    at += space;
    size_t length = word_length(text + at, size - at);
    if (length) read_word(r, text + at, length, space > 0);
    at += length;
  }
  if (bad) r->h->malformed = true;
}

/* Words without a mark of their own: after the channel one is a content type, two are a recipient without "to="
 * and a content type, and one before a <|constrain|> is a recipient. All others are stray. */
static void explain_loose(header_reader *r) {
  harmony_header *h = r->h;
  const char *words = r->loose.data;
  if (!r->loose_count) return;
  h->malformed = true;
  bool free_recipient = !h->recipient.size && !r->loose_early;
  if (r->loose.failed) return;
  if (free_recipient && r->loose_count == 1) {
    set(h->content_type.size ? &h->recipient : &h->content_type, words, r->loose.size);
  } else if (free_recipient && r->loose_count == 2 && !h->content_type.size) {
    set(&h->recipient, words, r->loose_first);
    set(&h->content_type, words + r->loose_first + 1, r->loose.size - r->loose_first - 1);
  } else {
    add_stray(r, words, r->loose.size);
  }
}

static bool header_failed(const harmony_header *h) {
  return h->name.failed || h->channel.failed || h->recipient.failed || h->content_type.failed ||
         h->stray.failed || h->text.failed;
}

bool harmony_header_read(const harmony_items *items, const char *given, bool started, harmony_header *out) {
  *out = (harmony_header){.role = given ? given : "assistant", .malformed = !started};
  header_reader r = {.h = out, .role_open = !given, .started = started, .first_word = true};
  for (size_t i = 0; i < items->count; i++) {
    const harmony_item *item = &items->items[i];
    if (item->kind == HARMONY_TEXT) {
      read_text(&r, items->raw.data + item->start, item->size);
      continue;
    }
    end_waiting(&r);
    if (item->kind == HARMONY_OTHER) out->malformed = true;
    if (item->kind == HARMONY_UNKNOWN) add_stray(&r, items->raw.data + item->start, item->size);
    if (item->kind == HARMONY_CONSTRAIN_MARK) r.want_type = true;
    if (item->kind == HARMONY_CHANNEL_MARK) {
      r.want_channel = r.after_channel = true;
      if (out->channel.size) out->malformed = true;
    }
  }
  end_waiting(&r);
  explain_loose(&r);
  if (r.role_open) out->malformed = true;
  /* A tool's answer says to whom, or has a full name; other unknown words are no authors. */
  if (strcmp(out->role, "tool") == 0 && out->name.size && !out->recipient.size &&
      !memchr(out->name.data, '.', out->name.size) && strcmp(out->name.data, "python") != 0)
    out->malformed = true;
  bool ok = !header_failed(out) && !r.loose.failed;
  ie_buf_free(&r.loose);
  return ok;
}

/* ---- headers without <|message|> ---- */

static bool text_blank(const ie_buf *text) {
  bool bad = false;
  return separators_length(text->data, text->size, &bad) == text->size && !bad;
}

/* Text of a header that became a message: a leading "to=NAME" is its recipient. */
static void recover_text(harmony_header *h, const char *text, size_t size) {
  bool bad = false;
  if (text_blank(&h->text)) {
    size_t space = separators_length(text, size, &bad);
    size_t length = word_length(text + space, size - space);
    if (!bad && length > 3 && starts_with(text + space, length, "to=") && !h->recipient.size) {
      set(&h->recipient, text + space + 3, length - 3);
      text += space + length;
      size -= space + length;
    }
  }
  ie_buf_append(&h->text, text, size);
}

/* How many bytes at the start of a text look like the name of a format: "json". */
static size_t type_length(const char *text, size_t size) {
  size_t n = 0;
  while (n < size &&
         ((text[n] >= 'a' && text[n] <= 'z') || (text[n] >= 'A' && text[n] <= 'Z') ||
          (text[n] >= '0' && text[n] <= '9') || text[n] == '_' || text[n] == '-' || text[n] == '/'))
    n++;
  return n;
}

/* One mark and the text that follows it at once; returns how much of that text it took. */
static size_t recover_mark(harmony_header *h, const harmony_item *item, const harmony_items *items,
                           const char *next, size_t next_size) {
  if (item->kind == HARMONY_CHANNEL_MARK && !h->channel.size) {
    size_t length = word_length(next, next_size);
    const char *end = memchr(next, '<', length);
    if (end) length = (size_t)(end - next);
    set(&h->channel, next, length);
    return length;
  }
  if (item->kind == HARMONY_CONSTRAIN_MARK && !h->content_type.size && text_blank(&h->text)) {
    size_t length = type_length(next, next_size);
    ie_buf_append_str(&h->content_type, HARMONY_CONSTRAIN);
    ie_buf_append(&h->content_type, next, length);
    return length;
  }
  ie_buf_append(&h->text, items->raw.data + item->start, item->size);
  return 0;
}

/* The author at the start of a text, when it is one; returns how many bytes it takes. */
static size_t recover_author(harmony_header *h, bool given, const char *text, size_t size) {
  bool bad = false;
  size_t space = separators_length(text, size, &bad);
  size_t length = word_length(text + space, size - space);
  const char *word = text + space;
  if (bad || !length) return 0;
  if (given) return strlen(h->role) == length && memcmp(h->role, word, length) == 0 ? space + length : 0;
  if (read_author(h, word, length)) return space + length;
  if (!starts_with(word + length, size - space - length, " to=")) return 0;
  h->role = "tool";
  set(&h->name, word, length);
  return space + length;
}

/* White space at both ends goes: it separated the text from the header. */
static void text_trim(ie_buf *text) {
  bool bad = false;
  size_t start = 0, end = 0;
  for (size_t at = 0; at < text->size;) {
    size_t space = separator_length(text->data + at, text->size - at, &bad);
    uint32_t c;
    size_t length = ie_utf8_decode(text->data + at, text->size - at, &c);
    bool inked = !space || !length; /* an ill-formed byte is part of the text */
    at += length ? length : 1;
    if (inked) end = at;
    if (!inked && !end) start = at;
  }
  if (!text->size) return;
  if (end < start) end = start;
  memmove(text->data, text->data + start, end - start);
  text->size = end - start;
  text->data[text->size] = '\0';
}

bool harmony_header_recover(const harmony_items *items, const char *given, bool started,
                            harmony_header *out) {
  *out = (harmony_header){.role = given ? given : "assistant", .malformed = true};
  size_t taken = 0; /* of the text at hand */
  for (size_t i = 0; i < items->count; i++) {
    const harmony_item *item = &items->items[i];
    const char *text = items->raw.data + item->start;
    if (item->kind == HARMONY_TEXT) {
      if (i == 0 && (given || started)) taken = recover_author(out, given != NULL, text, item->size);
      recover_text(out, text + taken, item->size - taken);
      taken = 0;
      continue;
    }
    bool followed = i + 1 < items->count && item[1].kind == HARMONY_TEXT;
    const char *next = followed ? items->raw.data + item[1].start : "";
    taken = recover_mark(out, item, items, next, followed ? item[1].size : 0);
  }
  text_trim(&out->text);
  return !header_failed(out);
}

void harmony_header_free(harmony_header *header) {
  ie_buf_free(&header->name);
  ie_buf_free(&header->channel);
  ie_buf_free(&header->recipient);
  ie_buf_free(&header->content_type);
  ie_buf_free(&header->stray);
  ie_buf_free(&header->text);
}
