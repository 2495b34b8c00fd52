/* Text to ids, in the order of the `tokenizers` library: added tokens in the raw text; between them the normal
 * form; added tokens in the normalised text; between them the pre-tokenizers; each piece is merged. */
#include "base/size.h"
#include "text/bpe.h"
#include "text/ids.h"
#include "text/normalize.h"
#include "text/tokenizer.h"

#include <stdlib.h>

/* Pieces that were merged lately. Most words of a text come again, and a hit costs less than the lookups. A key
 * is the bytes of a piece in two words: the first eight and the last eight. */
enum {
  CACHE_KEY_BYTES = 16,
  CACHE_IDS = 3,
  CACHE_MIN_TEXT_BYTES = 1024,
  CACHE_MIN_BITS = 8,
  CACHE_MAX_BITS = 16
};

typedef struct cache_slot {
  uint64_t key[2];
  uint16_t size, count; /* count = 0: empty */
  int32_t ids[CACHE_IDS];
} cache_slot;

typedef struct encoder {
  const ie_tokenizer *tokenizer;
  const char *text; /* (size) the original */
  size_t size;
  bool special_as_text;
  bool want_spans;
  size_t before; /* ids that the template put before the text */
  size_t first;  /* count of *out when the text began */
  ie_ids *out;
  ie_buf spans; /* ie_span, one for each new id */
  ie_bpe bpe;
  cache_slot *cache; /* (1 << cache_bits), or NULL */
  int cache_bits;
  ie_split_state regex[IE_MAX_STAGES];
  ie_error *error;
} encoder;

/* ---- results ---- */

static size_t step_forward(const encoder *e, size_t at) {
  uint32_t c;
  size_t n = ie_utf8_decode(e->text + at, e->size - at, &c);
  return at + (n ? n : 1);
}

static size_t step_back(const encoder *e, size_t at) {
  at--;
  for (int i = 0; i < 3 && at > 0 && ((uint8_t)e->text[at] & 0xC0) == 0x80; i++) at--;
  return at;
}

/* The white space characters at one end of a token's string. */
static size_t spaces_at(const char *p, size_t n, bool from_end) {
  size_t count = 0;
  while (n > 0) {
    uint32_t c;
    size_t at = 0, size;
    if (from_end)
      for (at = n - 1; at > 0 && ((uint8_t)p[at] & 0xC0) == 0x80;) at--;
    size = ie_utf8_decode(p + at, n - at, &c);
    if (size == 0 || !ie_unicode_space(c)) break;
    count++;
    n -= size;
    if (!from_end) p += size;
  }
  return count;
}

/* ByteLevel's trim_offsets: leading and trailing spaces of a token are not in its range. */
static ie_span span_trim(const encoder *e, ie_span span, size_t index, const char *token, size_t size,
                         bool vocabulary, bool prefix) {
  size_t leading = 0, trailing = 0;
  if (vocabulary) { /* written in the byte table, where only the space is white */
    while (leading < size && token[leading] == ' ') leading++;
    while (trailing < size && token[size - 1 - trailing] == ' ') trailing++;
  } else {
    leading = spaces_at(token, size, false);
    trailing = spaces_at(token, size, true);
  }
  if (leading && !(prefix && leading == 1 && (index == 0 || span.start == 0)))
    for (; leading > 0 && span.start < span.end; leading--) span.start = step_forward(e, span.start);
  if (span.start > span.end) span.start = span.end;
  for (; trailing > 0 && span.end > span.start; trailing--) span.end = step_back(e, span.end);
  if (span.end < span.start) span.end = span.start;
  return span;
}

/* Appends one id with its span; token and size are its string, vocabulary: in the byte table. */
static ie_status emit_span(encoder *e, int32_t id, ie_span span, const char *token, size_t size,
                           bool vocabulary) {
  const uint8_t *post = e->tokenizer->image.header->post;
  size_t index = e->out->count - e->first, before = 0;
  for (int i = 0; i < IE_MAX_POST && post[i]; i++) {
    if (post[i] == IE_POST_TEMPLATE)
      before = e->before;
    else
      span = span_trim(e, span, index + before, token, size, vocabulary, post[i] == IE_POST_TRIM_PREFIX);
  }
  if (!ie_buf_append(&e->spans, &span, sizeof span))
    return ie_error_set(e->error, IE_OUT_OF_MEMORY, "out of memory for the offsets");
  return ie_ids_append(e->out, &id, 1, e->error);
}

/* ---- one piece ---- */

static ie_status encode_spans(encoder *e, ie_normal_text piece, int32_t whole) {
  const ie_image *image = &e->tokenizer->image;
  size_t at = 0;
  if (whole >= 0)
    return emit_span(e, whole, (ie_span){piece.map[0].start, piece.map[piece.size - 1].end}, piece.bytes,
                     piece.size, true);
  for (size_t i = 0; i < e->bpe.count; i++) {
    uint32_t id = e->bpe.ids[i], size = e->bpe.sizes[i];
    ie_span span = {piece.map[at].start, piece.map[at + size - 1].end};
    bool unknown = (int32_t)id == image->header->unk_id;
    uint32_t start = image->token_offset[id];
    ie_status status = unknown ? emit_span(e, (int32_t)id, span, image->token_bytes + start,
                                           image->token_offset[id + 1] - start, false)
                               : emit_span(e, (int32_t)id, span, piece.bytes + at, size, true);
    if (status != IE_OK) return status;
    at += size;
  }
  return IE_OK;
}

/* The slot of a piece of 1 to CACHE_KEY_BYTES bytes; its key is set. */
static inline cache_slot *cache_find(const encoder *e, const char *p, size_t n, uint64_t key[2]) {
  key[1] = 0;
  if (n >= 8) {
    memcpy(&key[0], p, 8);
    memcpy(&key[1], p + n - 8, 8);
  } else if (n >= 4) {
    uint32_t low, high;
    memcpy(&low, p, 4);
    memcpy(&high, p + n - 4, 4);
    key[0] = (uint64_t)high << 32 | low;
  } else {
    key[0] = (uint64_t)(uint8_t)p[0] | (uint64_t)(uint8_t)p[n / 2] << 8 | (uint64_t)(uint8_t)p[n - 1] << 16;
  }
  uint64_t hash = ie_text_mix(key[0] ^ 0x9E3779B97F4A7C15u, key[1] ^ n ^ 0xD6E8FEB86659FD93u);
  return &e->cache[hash >> (64 - e->cache_bits)];
}

static inline bool cache_hit(const cache_slot *slot, const uint64_t key[2], size_t n) {
  return slot->key[0] == key[0] && slot->key[1] == key[1] && slot->size == n && slot->count;
}

static void cache_store(cache_slot *slot, const uint64_t key[2], size_t n, const int32_t *ids, size_t count) {
  if (count == 0 || count > CACHE_IDS) return;
  *slot = (cache_slot){.key = {key[0], key[1]}, .size = (uint16_t)n, .count = (uint16_t)count};
  memcpy(slot->ids, ids, count * sizeof *ids);
}

/* Merges a piece that was not in the cache and appends its ids; slot may be NULL. */
static ie_status encode_new_piece(encoder *e, ie_normal_text piece, cache_slot *slot, const uint64_t key[2]) {
  const ie_image *image = &e->tokenizer->image;
  int32_t whole = -1;
  if (image->header->flags & IE_IMAGE_IGNORE_MERGES)
    whole = ie_image_find(image, piece.bytes, piece.size, ie_text_hash(piece.bytes, piece.size));
  if (whole < 0) {
    ie_status status = ie_bpe_run(&e->bpe, piece.bytes, piece.size, e->error);
    if (status != IE_OK) return status;
  }
  if (e->want_spans) return encode_spans(e, piece, whole);
  const int32_t *ids = whole >= 0 ? &whole : (const int32_t *)e->bpe.ids;
  size_t count = whole >= 0 ? 1 : e->bpe.count;
  if (slot) cache_store(slot, key, piece.size, ids, count);
  return ie_ids_append(e->out, ids, count, e->error);
}

/* Merges one piece and appends its ids. */
static inline ie_status encode_piece(encoder *e, ie_normal_text piece) {
  uint64_t key[2];
  if (!e->cache || piece.size > CACHE_KEY_BYTES || piece.size == 0)
    return piece.size ? encode_new_piece(e, piece, NULL, NULL) : IE_OK;
  cache_slot *slot = cache_find(e, piece.bytes, piece.size, key);
  ie_ids *out = e->out;
  if (!cache_hit(slot, key, piece.size) || out->capacity - out->count < CACHE_IDS)
    return encode_new_piece(e, piece, slot, key);
  memcpy(out->ids + out->count, slot->ids, sizeof slot->ids);
  out->count += slot->count;
  return IE_OK;
}

/* ---- pre-tokenizers ---- */

static ie_status encode_stage(encoder *e, size_t stage, ie_normal_text text);

static ie_normal_text part(ie_normal_text text, size_t from, size_t to) {
  return (ie_normal_text){
      .bytes = text.bytes + from, .size = to - from, .map = text.map ? text.map + from : NULL};
}

/* A space before the text; it reports the range of the character that it stands before. */
static ie_status encode_prefix(encoder *e, size_t stage, ie_normal_text text) {
  if (text.size == 0 || text.bytes[0] == ' ') return encode_stage(e, stage + 1, text);
  size_t size, bytes;
  if (!ie_size_add(text.size, 1, &size) || !ie_size_mul(size, sizeof(ie_span), &bytes))
    return ie_error_set(e->error, IE_OUT_OF_MEMORY, "out of memory for a text of %zu bytes", text.size);
  char *copy = malloc(size);
  ie_span *map = text.map ? malloc(bytes) : NULL;
  ie_status status;
  if (!copy || (text.map && !map)) {
    status = ie_error_set(e->error, IE_OUT_OF_MEMORY, "out of memory for a text of %zu bytes", text.size);
  } else {
    copy[0] = ' ';
    memcpy(copy + 1, text.bytes, text.size);
    if (map) {
      map[0] = text.map[0];
      memcpy(map + 1, text.map, text.size * sizeof *map);
    }
    status = encode_stage(e, stage + 1, (ie_normal_text){.bytes = copy, .size = size, .map = map});
  }
  free(copy);
  free(map);
  return status;
}

/* One number character at `at`: its size, else 0. */
static size_t number_size(const encoder *e, ie_normal_text text, size_t at) {
  uint32_t c;
  size_t n = ie_utf8_decode(text.bytes + at, text.size - at, &c);
  return ie_char_class(e->tokenizer->classes, c) & IE_CLASS_NUMBER ? n : 0;
}

/* The next match of a stage at or after `from`; start = size when there is none. */
static ie_status stage_match(encoder *e, size_t stage, ie_normal_text text, size_t from, ie_range *out) {
  const ie_splitter *s = &e->tokenizer->stages[stage];
  if (s->family) {
    out->start = from;
    out->end = from + ie_split_family_next(s, e->tokenizer->classes, text.bytes + from, text.size - from);
    return IE_OK;
  }
  if (s->stage->kind != IE_STAGE_DIGITS)
    return ie_split_match(s, &e->regex[stage], text.bytes, text.size, from, out, e->error);
  size_t n = 0, at = from;
  while (at < text.size && (n = number_size(e, text, at)) == 0) {
    uint32_t c;
    at += ie_utf8_decode(text.bytes + at, text.size - at, &c);
  }
  *out = (ie_range){at, at + n};
  return IE_OK;
}

/* Joins the alternating gaps and matches of a stage to pieces, as SplitDelimiterBehavior says. */
typedef struct joiner {
  encoder *e;
  size_t stage;
  ie_normal_text text;
  ie_split_behavior behavior;
  size_t start, end;   /* the piece that may still grow */
  bool open;           /* there is one */
  bool previous_match; /* what was added last was a match */
} joiner;

static ie_status joiner_flush(joiner *j) {
  if (!j->open) return IE_OK;
  j->open = false;
  if (j->start == j->end) return IE_OK;
  return encode_stage(j->e, j->stage + 1, part(j->text, j->start, j->end));
}

static ie_status joiner_add(joiner *j, size_t from, size_t to, bool match) {
  bool grows = false, previous = j->previous_match;
  j->previous_match = match;
  switch (j->behavior) {
  case IE_SPLIT_REMOVED:
    if (match) return joiner_flush(j);
    break;
  case IE_SPLIT_ISOLATED: break;
  case IE_SPLIT_CONTIGUOUS: grows = match == previous; break;
  case IE_SPLIT_MERGED_WITH_PREVIOUS: grows = match && !previous; break;
  case IE_SPLIT_MERGED_WITH_NEXT: grows = previous && !match; break;
  }
  if (grows && j->open) {
    j->end = to;
    return IE_OK;
  }
  ie_status status = joiner_flush(j);
  j->start = from;
  j->end = to;
  j->open = true;
  return status;
}

static ie_status encode_split(encoder *e, size_t stage, ie_normal_text text) {
  const ie_image_stage *s = e->tokenizer->stages[stage].stage;
  joiner j = {.e = e, .stage = stage, .text = text, .behavior = (ie_split_behavior)s->behavior};
  size_t done = 0, from = 0, last = SIZE_MAX; /* done: handed to the joiner; last: end of the match before */
  ie_status status = IE_OK;
  while (from < text.size && status == IE_OK) {
    ie_range match = {0};
    status = stage_match(e, stage, text, from, &match);
    if (status != IE_OK || match.start >= text.size) break;
    if (match.start == match.end &&
        match.end == last) { /* an empty match right behind a match does not count */
      uint32_t c;
      from += ie_utf8_decode(text.bytes + from, text.size - from, &c);
      continue;
    }
    if (done < match.start) status = joiner_add(&j, done, match.start, s->invert);
    if (status == IE_OK) status = joiner_add(&j, match.start, match.end, !s->invert);
    done = from = last = match.end;
  }
  if (status == IE_OK && done < text.size) status = joiner_add(&j, done, text.size, s->invert);
  return status == IE_OK ? joiner_flush(&j) : status;
}

static ie_status encode_stage(encoder *e, size_t stage, ie_normal_text text) {
  if (stage == e->tokenizer->image.header->stages) return encode_piece(e, text);
  const ie_splitter *s = &e->tokenizer->stages[stage];
  if (s->stage->kind == IE_STAGE_PREFIX) return encode_prefix(e, stage, text);
  if (!s->family || s->stage->behavior != IE_SPLIT_ISOLATED) return encode_split(e, stage, text);
  bool last = stage + 1 == e->tokenizer->image.header->stages;
  for (size_t at = 0; at < text.size;) {
    size_t n = ie_split_family_next(s, e->tokenizer->classes, text.bytes + at, text.size - at);
    ie_normal_text piece = part(text, at, at + n);
    ie_status status = last ? encode_piece(e, piece) : encode_stage(e, stage + 1, piece);
    if (status != IE_OK) return status;
    at += n;
  }
  return IE_OK;
}

/* Bytes that are no UTF-8. Some vocabularies lack bytes that occur in no text; they cannot be kept there. */
static ie_status encode_ill_formed(encoder *e, ie_normal_text text) {
  const ie_image_header *header = e->tokenizer->image.header;
  for (size_t i = 0; i < text.size && header->unk_id < 0; i++)
    if (header->byte_id[(uint8_t)text.bytes[i]] < 0)
      return ie_error_set(e->error, IE_FORMAT,
                          "the text is not UTF-8 and the tokenizer has no token for the byte 0x%02X",
                          (uint8_t)text.bytes[i]);
  return encode_piece(e, text);
}

/* Text without added tokens. Ill-formed bytes are pieces of their own, so that no byte is lost and no pattern
 * sees one. */
static ie_status encode_plain(encoder *e, ie_normal_text text) {
  ie_status status = IE_OK;
  for (size_t at = 0; at < text.size && status == IE_OK;) {
    size_t valid = ie_utf8_valid(text.bytes + at, text.size - at), bad = at + valid;
    if (valid) status = encode_stage(e, 0, part(text, at, bad));
    at = bad;
    uint32_t c;
    while (at < text.size && ie_utf8_decode(text.bytes + at, text.size - at, &c) == 0) at++;
    if (status == IE_OK && at > bad) status = encode_ill_formed(e, part(text, bad, at));
  }
  return status;
}

/* ---- added tokens ---- */

/* The longest added token among [low, high), sorted by match, that stands at p; NULL when there is none. */
static const ie_image_added *added_at(const ie_image *image, uint32_t low, uint32_t high, const char *p,
                                      size_t n) {
  const ie_image_added *best = NULL;
  for (uint32_t depth = 0; low < high; depth++) {
    /* [low, high) agree with p in `depth` bytes; the one that ends here comes first */
    if (image->added[low].match.size == depth) best = &image->added[low];
    while (low < high && image->added[low].match.size == depth) low++;
    if (depth == n) break;
    uint8_t want = (uint8_t)p[depth];
    uint32_t a = low, b = high;
    while (a < b) { /* first that is not below want */
      uint32_t m = a + (b - a) / 2;
      if ((uint8_t)image->strings[image->added[m].match.offset + depth] < want)
        a = m + 1;
      else
        b = m;
    }
    low = a;
    b = high;
    while (a < b) { /* first above want */
      uint32_t m = a + (b - a) / 2;
      if ((uint8_t)image->strings[image->added[m].match.offset + depth] <= want)
        a = m + 1;
      else
        b = m;
    }
    high = a;
  }
  return best;
}

static bool word_before(const char *p, size_t at) {
  size_t start = at;
  for (int i = 0; i < 4 && start > 0; i++) {
    start--;
    if (((uint8_t)p[start] & 0xC0) != 0x80) break;
  }
  uint32_t c;
  return at > 0 && ie_utf8_decode(p + start, at - start, &c) == at - start && ie_unicode_word(c);
}

static bool word_after(const char *p, size_t n, size_t at) {
  uint32_t c;
  return at < n && ie_utf8_decode(p + at, n - at, &c) != 0 && ie_unicode_word(c);
}

/* Moves [*start, *end) over white space, but not before `limit`. */
static void added_strip(const ie_image_added *token, ie_normal_text text, size_t limit, size_t *start,
                        size_t *end) {
  uint32_t c;
  if (token->flags & IE_ADDED_LSTRIP) {
    size_t at = *start;
    while (at > 0) {
      size_t before = at - 1;
      while (before > 0 && at - before < 4 && ((uint8_t)text.bytes[before] & 0xC0) == 0x80) before--;
      if (ie_utf8_decode(text.bytes + before, at - before, &c) != at - before || !ie_unicode_space(c)) break;
      at = before;
    }
    *start = at > limit ? at : limit;
  }
  if (token->flags & IE_ADDED_RSTRIP) {
    size_t n;
    while (*end < text.size && (n = ie_utf8_decode(text.bytes + *end, text.size - *end, &c)) &&
           ie_unicode_space(c))
      *end += n;
  }
}

static ie_status encode_added_token(encoder *e, int32_t id, ie_normal_text text, size_t start, size_t end) {
  if (!e->want_spans) return ie_ids_append(e->out, &id, 1, e->error);
  ie_span span = {0};
  if (start < end) span = (ie_span){text.map[start].start, text.map[end - 1].end};
  return emit_span(e, id, span, text.bytes + start, start < end ? end - start : 0, false);
}

/* Cuts text at its added tokens (the raw or the normalized ones) and gives each gap to `gap`. */
static ie_status encode_added(encoder *e, bool normalized, ie_normal_text text,
                              ie_status (*gap)(encoder *, ie_normal_text)) {
  const ie_image *image = &e->tokenizer->image;
  uint32_t low = normalized ? image->header->raw_added : 0;
  uint32_t high = normalized ? image->header->added : image->header->raw_added;
  if (low == high) return gap(e, text);
  const uint8_t *first = normalized ? e->tokenizer->normal_first : e->tokenizer->raw_first;
  size_t done = 0;
  for (size_t at = 0; at < text.size;) {
    if (!first[(uint8_t)text.bytes[at]]) {
      at++;
      continue;
    }
    const ie_image_added *token = added_at(image, low, high, text.bytes + at, text.size - at);
    if (!token) {
      at++;
      continue;
    }
    size_t start = at, end = at + token->match.size;
    at = end; /* the next search begins behind the token itself, also when it is dropped */
    if (e->special_as_text && token->flags & IE_ADDED_SPECIAL) continue;
    if (token->flags & IE_ADDED_SINGLE_WORD &&
        (word_before(text.bytes, start) || word_after(text.bytes, text.size, end)))
      continue;
    added_strip(token, text, done, &start, &end);
    ie_status status = IE_OK;
    if (done < start) status = gap(e, part(text, done, start));
    if (status == IE_OK) status = encode_added_token(e, token->id, text, start, end);
    if (status != IE_OK) return status;
    done = end;
  }
  return done < text.size ? gap(e, part(text, done, text.size)) : IE_OK;
}

static ie_status encode_normal(encoder *e, ie_normal_text text) {
  return encode_added(e, true, text, encode_plain);
}

static ie_status encode_raw(encoder *e, ie_normal_text text) {
  const uint8_t *normalizers = e->tokenizer->image.header->normalizers;
  if (ie_normalize_is_idle(normalizers, text.bytes, text.size)) return encode_normal(e, text);
  ie_buf bytes = {0}, map = {0};
  ie_status status = ie_normalize(normalizers, text, &bytes, text.map ? &map : NULL, e->error);
  if (status == IE_OK)
    status =
        encode_normal(e, (ie_normal_text){.bytes = bytes.data ? bytes.data : "",
                                          .size = bytes.size,
                                          .map = text.map ? (const ie_span *)(const void *)map.data : NULL});
  ie_buf_free(&bytes);
  ie_buf_free(&map);
  return status;
}

/* ---- the whole ---- */

static ie_status encode_template(encoder *e, const int32_t *ids, uint32_t count) {
  for (uint32_t i = 0; e->want_spans && i < count; i++)
    if (!ie_buf_append(&e->spans, &(ie_span){0}, sizeof(ie_span)))
      return ie_error_set(e->error, IE_OUT_OF_MEMORY, "out of memory for the offsets");
  return ie_ids_append(e->out, ids, count, e->error);
}

/* The span of each byte: that of its character. */
static ie_span *identity_map(const char *text, size_t size) {
  size_t bytes;
  ie_span *map = ie_size_mul(size, sizeof *map, &bytes) ? malloc(bytes ? bytes : 1) : NULL;
  for (size_t at = 0; map && at < size;) {
    uint32_t c;
    size_t n = ie_utf8_decode(text + at, size - at, &c), start = at;
    for (n = n ? n : 1; n > 0; n--, at++) map[at].start = start;
    for (size_t i = start; i < at; i++) map[i].end = at;
  }
  return map;
}

static ie_status encoder_run(encoder *e, bool add_special) {
  const ie_image *image = &e->tokenizer->image;
  ie_normal_text text = {.bytes = e->text, .size = e->size};
  ie_span *map = NULL;
  if (e->want_spans && !(text.map = map = identity_map(e->text, e->size)))
    return ie_error_set(e->error, IE_OUT_OF_MEMORY, "out of memory for the offsets of %zu bytes", e->size);
  if (e->size >= CACHE_MIN_TEXT_BYTES &&
      !e->want_spans) { /* without memory for it, the work is only slower */
    e->cache_bits = CACHE_MIN_BITS;
    while (e->cache_bits < CACHE_MAX_BITS && (size_t)16 << e->cache_bits < e->size) e->cache_bits++;
    e->cache = calloc((size_t)1 << e->cache_bits, sizeof *e->cache);
  }
  ie_status status = IE_OK;
  if (add_special) status = encode_template(e, image->template_ids, image->header->prefix);
  e->before = add_special ? image->header->prefix : 0;
  e->first = e->out->count;
  if (status == IE_OK) status = encode_added(e, false, text, encode_raw);
  if (status == IE_OK && add_special)
    status = encode_template(e, image->template_ids + image->header->prefix, image->header->suffix);
  free(map);
  return status;
}

static ie_status tokenizer_encode(const ie_tokenizer *tokenizer, const char *text, size_t size,
                                  const ie_encode_options *options, encoder *e) {
  if (tokenizer->image.header->flags & IE_IMAGE_DECODE_ONLY)
    return ie_error_set(e->error, IE_UNSUPPORTED,
                        "a %s pack holds no pattern to split text with: name its encoding",
                        ie_tokenizer_kind(tokenizer));
  size_t count = e->out->count;
  e->tokenizer = tokenizer;
  e->text = text ? text : "";
  e->size = size;
  e->bpe.image = &tokenizer->image;
  e->special_as_text = options && options->special_as_text;
  ie_status status = encoder_run(e, options && options->add_special);
  if (status != IE_OK) e->out->count = count;
  ie_bpe_free(&e->bpe);
  free(e->cache);
  for (size_t i = 0; i < IE_MAX_STAGES; i++) ie_split_state_free(&e->regex[i]);
  return status;
}

ie_status ie_tokenizer_encode(const ie_tokenizer *tokenizer, const char *text, size_t size,
                              const ie_encode_options *options, ie_ids *out, ie_error *error) {
  encoder e = {.out = out, .error = error};
  return tokenizer_encode(tokenizer, text, size, options, &e);
}

ie_status ie_tokenizer_encode_spans(const ie_tokenizer *tokenizer, const char *text, size_t size,
                                    const ie_encode_options *options, ie_ids *out, ie_span **spans,
                                    ie_error *error) {
  *spans = NULL;
  encoder e = {.out = out, .error = error, .want_spans = true};
  ie_status status = tokenizer_encode(tokenizer, text, size, options, &e);
  if (status == IE_OK) {
    *spans = (ie_span *)(void *)e.spans.data;
    e.spans = (ie_buf){0};
  }
  ie_buf_free(&e.spans);
  return status;
}
