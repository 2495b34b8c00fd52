/* Rank files of tiktoken (a line: base64 of the token, a space, its rank) and the parts that all sources of
 * tiktoken's kind share. */
#include "text/encodings.h"
#include "text/tokenizer.h"

static int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes n characters with padding into out (3 bytes for 4); false when they are no base64. */
static bool base64_decode(const char *p, size_t n, char *out, size_t *size) {
  if (n == 0 || n % 4) return false;
  size_t padding = (p[n - 1] == '=') + (size_t)(p[n - 1] == '=' && p[n - 2] == '=');
  *size = 0;
  for (size_t i = 0; i < n; i += 4) {
    uint32_t word = 0;
    for (size_t k = 0; k < 4; k++) {
      int v = base64_value(p[i + k]);
      if (v < 0 && i + k < n - padding) return false;
      word = word << 6 | (uint32_t)(v < 0 ? 0 : v);
    }
    size_t bytes = i + 4 == n ? 3 - padding : 3;
    if (word & ((1u << (24 - 8 * bytes)) - 1)) return false; /* bits behind the end */
    for (size_t k = 0; k < bytes; k++) out[(*size)++] = (char)(word >> (16 - 8 * k));
  }
  return true;
}

/* The decimal number that fills p[0, n), or -1. */
static int64_t decimal(const char *p, size_t n) {
  int64_t value = 0;
  if (n == 0 || n > 9) return -1;
  for (size_t i = 0; i < n; i++) {
    if (p[i] < '0' || p[i] > '9') return -1;
    value = value * 10 + (p[i] - '0');
  }
  return value;
}

/* One line without its end. */
static ie_status rank_line(ie_builder *b, const char *p, size_t n, size_t number, ie_buf *scratch,
                           ie_error *error) {
  const char *space = memchr(p, ' ', n);
  int64_t rank = space ? decimal(space + 1, (size_t)(p + n - space - 1)) : -1;
  ie_buf_clear(scratch);
  if (!ie_buf_reserve(scratch, n))
    return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", b->where);
  if (rank < 0 || !base64_decode(p, (size_t)(space - p), scratch->data, &scratch->size) || scratch->size == 0)
    return ie_error_set(error, IE_FORMAT, "%s: line %zu: expected a token in base64, a space and its rank",
                        b->where, number);
  return ie_builder_token_add(b, rank, scratch->data, scratch->size, /*lookup=*/true, error);
}

bool ie_tokenizer_is_rank_file(const char *data, size_t size) {
  const char *end = memchr(data, '\n', size);
  size_t n = end ? (size_t)(end - data) : size;
  if (n && data[n - 1] == '\r') n--;
  const char *space = memchr(data, ' ', n);
  char token[256 / 4 * 3];
  size_t bytes;
  return space && (size_t)(space - data) <= 256 && decimal(space + 1, (size_t)(data + n - space - 1)) >= 0 &&
         base64_decode(data, (size_t)(space - data), token, &bytes);
}

size_t ie_tokenizer_count_ranks(const char *data, size_t size) {
  size_t lines = 0;
  for (size_t at = 0; at < size; lines++) {
    const char *end = memchr(data + at, '\n', size - at);
    at = end ? (size_t)(end - data) + 1 : size;
  }
  return lines;
}

static ie_status rank_special(void *user, const char *name, int64_t id, ie_error *error) {
  ie_builder *b = user;
  if (id >= 0 && (size_t)id < b->ids && b->tokens[id].flags && !(b->tokens[id].flags & IE_TOKEN_ADDED))
    return ie_error_set(error, IE_FORMAT, "%s: rank %lld is that of the special token %s: another encoding?",
                        b->where, (long long)id, name);
  return ie_builder_added_add(b, id, name, strlen(name), IE_ADDED_SPECIAL, error);
}

ie_status ie_tokenizer_finish_ranks(ie_builder *b, ie_error *error) {
  b->header.flags |= IE_IMAGE_IGNORE_MERGES | IE_IMAGE_MISSING_BYTES_FAIL;
  ie_status status = ie_builder_index(b, error);
  return status == IE_OK ? ie_builder_pairs_from_ranks(b, error) : status;
}

static ie_status rank_read(ie_builder *b, const char *data, size_t size, const ie_encoding *encoding,
                           ie_error *error) {
  ie_buf scratch = {0};
  ie_status status = IE_OK;
  size_t number = 1;
  for (size_t at = 0; at < size && status == IE_OK; number++) {
    const char *end = memchr(data + at, '\n', size - at);
    size_t stop = end ? (size_t)(end - data) : size, n = stop - at;
    if (n && data[at + n - 1] == '\r') n--;
    if (n) status = rank_line(b, data + at, n, number, &scratch, error);
    at = stop + 1;
  }
  ie_buf_free(&scratch);
  if (status == IE_OK && b->ids == 0) status = ie_error_set(error, IE_FORMAT, "%s: no ranks", b->where);
  if (status == IE_OK) status = ie_tokenizer_finish_ranks(b, error);
  if (status == IE_OK) status = ie_encoding_stages(encoding, b, /*rust=*/true, error);
  if (status == IE_OK) status = ie_encoding_specials(encoding, (int64_t)b->ids, rank_special, b, error);
  return status;
}

ie_status ie_tokenizer_read_ranks(const char *where, const void *data, size_t size, const char *encoding_name,
                                  void **bytes, size_t *image_size, ie_error *error) {
  *bytes = NULL;
  const ie_encoding *encoding;
  ie_status status = ie_encoding_get(encoding_name, where, &encoding, error);
  if (status != IE_OK) return status;
  ie_builder builder;
  ie_builder_init(&builder, where);
  builder.header.kind = IE_SOURCE_TIKTOKEN;
  status = rank_read(&builder, data, size, encoding, error);
  if (status == IE_OK) status = ie_builder_finish(&builder, bytes, image_size, error);
  ie_builder_free(&builder);
  return status;
}
