/* IETOK1 packs: "IETOK1", u16 version 1, then six u32 (vocab_size, merges_count, off_vocab = 32, off_merges,
 * off_special = file size, reserved 0), then vocab_size strings (u32 length, bytes) in the order of their ids,
 * then merges_count pairs of strings. Little endian. Strings are written in GPT-2's byte table.
 *
 * A pack has no pattern, normaliser or special tokens: they come from an encoding by name. Without one it decodes,
 * and refuses to encode. */
#include "text/byte_level.h"
#include "text/encodings.h"
#include "text/tokenizer.h"

enum { IETOK_HEADER_BYTES = 32 };

typedef struct ietok {
  const uint8_t *p; /* (size) */
  size_t size, at;
  ie_builder builder;
  ie_byte_level table;
  ie_buf names; /* the raw strings' offsets: u32 (vocab) */
  ie_buf a, b;
  ie_error *error;
} ietok;

static uint32_t u32_at(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static ie_status ietok_bad(const ietok *s, const char *what) {
  return ie_error_set(s->error, IE_FORMAT, "%s: damaged IETOK1 pack: %s", s->builder.where, what);
}

/* Reads a string at s->at; false when it does not fit before end. */
static bool ietok_string(ietok *s, size_t end, const char **text, size_t *size) {
  if (end - s->at < 4) return false;
  uint32_t n = u32_at(s->p + s->at);
  if (n > end - s->at - 4) return false;
  *text = (const char *)s->p + s->at + 4;
  *size = n;
  s->at += 4 + n;
  return true;
}

/* The bytes that a string stands for; *mapped as in a tokenizer.json. */
static bool ietok_bytes(ietok *s, const char *text, size_t size, ie_buf *out, bool *mapped) {
  ie_buf_clear(out);
  if (!ie_buf_reserve(out, size + 1)) return false;
  *mapped = ie_byte_level_decode(&s->table, text, size, out->data, &out->size);
  if (!*mapped) {
    memcpy(out->data, text, size);
    out->size = size;
  }
  return true;
}

static ie_status ietok_vocab(ietok *s, uint32_t count, size_t end) {
  for (uint32_t id = 0; id < count; id++) {
    const char *text;
    size_t size;
    bool mapped;
    uint32_t at = (uint32_t)s->at;
    if (!ietok_string(s, end, &text, &size)) return ietok_bad(s, "a token is longer than its part");
    if (!ietok_bytes(s, text, size, &s->a, &mapped) || !ie_buf_append(&s->names, &at, sizeof at))
      return ie_error_set(s->error, IE_OUT_OF_MEMORY, "%s: out of memory", s->builder.where);
    ie_status status = ie_builder_token_add(&s->builder, id, s->a.data, s->a.size, mapped, s->error);
    if (status != IE_OK) return status;
  }
  return s->at == end ? ie_builder_index(&s->builder, s->error) : ietok_bad(s, "bytes behind the vocabulary");
}

static ie_status ietok_merges(ietok *s, uint32_t count) {
  for (uint32_t rank = 0; rank < count; rank++) {
    const char *a, *b;
    size_t a_size, b_size;
    bool a_mapped, b_mapped;
    if (!ietok_string(s, s->size, &a, &a_size) || !ietok_string(s, s->size, &b, &b_size))
      return ietok_bad(s, "a merge is longer than the file");
    if (!ietok_bytes(s, a, a_size, &s->a, &a_mapped) || !ietok_bytes(s, b, b_size, &s->b, &b_mapped))
      return ie_error_set(s->error, IE_OUT_OF_MEMORY, "%s: out of memory", s->builder.where);
    if (!a_mapped || !b_mapped) continue; /* no text can give it */
    int32_t left = ie_builder_find(&s->builder, s->a.data, s->a.size);
    int32_t right = ie_builder_find(&s->builder, s->b.data, s->b.size);
    if (!ie_buf_append(&s->a, s->b.data, s->b.size))
      return ie_error_set(s->error, IE_OUT_OF_MEMORY, "%s: out of memory", s->builder.where);
    int32_t result = ie_builder_find(&s->builder, s->a.data, s->a.size);
    if (left < 0 || right < 0 || result < 0) return ietok_bad(s, "a merge is not in the vocabulary");
    ie_status status =
        ie_builder_pair_add(&s->builder, (uint32_t)left, (uint32_t)right, rank, (uint32_t)result, s->error);
    if (status != IE_OK) return status;
  }
  return s->at == s->size ? IE_OK : ietok_bad(s, "bytes behind the merges");
}

/* A special token of the encoding, where the vocabulary holds its name. */
static ie_status ietok_special(void *user, const char *name, int64_t expected, ie_error *error) {
  ietok *s = user;
  (void)expected;
  size_t n = strlen(name);
  const uint32_t *offsets = (const uint32_t *)(const void *)s->names.data;
  for (size_t id = s->names.size / sizeof *offsets; id-- > 0;)
    if (u32_at(s->p + offsets[id]) == n && memcmp(s->p + offsets[id] + 4, name, n) == 0)
      return ie_builder_added_add(&s->builder, (int64_t)id, name, n, IE_ADDED_SPECIAL, error);
  return IE_OK;
}

static ie_status ietok_read(ietok *s, const ie_encoding *encoding) {
  if (s->size < IETOK_HEADER_BYTES) return ietok_bad(s, "no header");
  uint32_t version = (uint32_t)s->p[6] | (uint32_t)s->p[7] << 8;
  uint32_t vocab = u32_at(s->p + 8), merges = u32_at(s->p + 12), off_vocab = u32_at(s->p + 16);
  uint32_t off_merges = u32_at(s->p + 20), off_special = u32_at(s->p + 24);
  if (version != 1)
    return ie_error_set(s->error, IE_UNSUPPORTED, "%s: IETOK version %u, expected 1", s->builder.where,
                        version);
  if (off_vocab != IETOK_HEADER_BYTES || off_merges < off_vocab || off_merges > s->size ||
      off_special != s->size)
    return ietok_bad(s, "offsets");
  if (vocab > IE_MAX_TOKENS || vocab > s->size / 4 || merges > s->size / 8) return ietok_bad(s, "counts");
  s->at = off_vocab;
  ie_status status = ietok_vocab(s, vocab, off_merges);
  if (status == IE_OK) status = ietok_merges(s, merges);
  if (status != IE_OK) return status;
  if (!encoding) {
    s->builder.header.flags |= IE_IMAGE_DECODE_ONLY;
    return IE_OK;
  }
  if (ie_encoding_ignores_merges(encoding)) s->builder.header.flags |= IE_IMAGE_IGNORE_MERGES;
  status = ie_encoding_stages(encoding, &s->builder, /*rust=*/false, s->error);
  return status == IE_OK ? ie_encoding_specials(encoding, vocab, ietok_special, s, s->error) : status;
}

ie_status ie_tokenizer_read_ietok(const char *where, const void *data, size_t size, const char *encoding_name,
                                  void **bytes, size_t *image_size, ie_error *error) {
  *bytes = NULL;
  const ie_encoding *encoding = NULL;
  ie_status status = encoding_name ? ie_encoding_get(encoding_name, where, &encoding, error) : IE_OK;
  if (status != IE_OK) return status;
  ietok s = {.p = data, .size = size, .error = error};
  ie_byte_level_init(&s.table);
  ie_builder_init(&s.builder, where);
  s.builder.header.kind = IE_SOURCE_IETOK1;
  status = ietok_read(&s, encoding);
  if (status == IE_OK) status = ie_builder_finish(&s.builder, bytes, image_size, error);
  ie_builder_free(&s.builder);
  ie_buf_free(&s.names);
  ie_buf_free(&s.a);
  ie_buf_free(&s.b);
  return status;
}
