/* The whole of the reference vectors, where CLOCHER_TEST_DATA names a folder with golden/text and data: encoding (by
 * hand-written splitters and by PCRE2), rank files, decoding, streaming, offsets, long texts, decode tables. */
#include "text/tokenizer.h"

#include "base/hash.h"
#include "clocher/text.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *root_path(const char *where, const char *name) {
  const char *root = getenv("CLOCHER_TEST_DATA");
  size_t size = strlen(root ? root : "") + strlen(where) + strlen(name) + 3;
  char *path = malloc(size);
  assert_non_null(path);
  snprintf(path, size, "%s/%s/%s", root ? root : "", where, name);
  return path;
}

static void need_data(void) {
  if (!getenv("CLOCHER_TEST_DATA")) skip();
}

static json_t *load_json(const char *path) {
  json_error_t error;
  json_t *root = json_load_file(path, 0, &error);
  if (!root) fail_msg("%s: %s", path, error.text);
  return root;
}

static const char *text_of(const json_t *object, const char *key) {
  return json_string_value(json_object_get(object, key));
}

/* The file of a tokenizer: key is "json", or "file" of its rank file. */
static char *file_of(const json_t *entry, const char *key) {
  bool public = strcmp(text_of(entry, "where"), "public") == 0;
  return root_path(public ? "golden/text" : "data", text_of(entry, key));
}

static ie_tokenizer *open_path(char *path, const char *encoding) {
  ie_tokenizer_options options = {.encoding = encoding};
  ie_tokenizer *tokenizer;
  ie_error error = {0};
  if (ie_tokenizer_open(path, &options, &tokenizer, &error) != IE_OK) fail_msg("%s", error.message);
  free(path);
  return tokenizer;
}

/* A hexadecimal string as bytes in fresh memory. */
static char *from_hex(const json_t *hex, size_t *size) {
  const char *p = json_string_value(hex);
  *size = json_string_length(hex) / 2;
  char *out = malloc(*size + 1);
  assert_non_null(out);
  for (size_t i = 0; i < *size; i++) {
    const char pair[3] = {p[2 * i], p[2 * i + 1], 0};
    out[i] = (char)strtol(pair, NULL, 16);
  }
  return out;
}

/* The text of a row in fresh memory. */
static char *row_text(const json_t *row, size_t *size) {
  const json_t *text = json_object_get(row, "text");
  if (!text) return from_hex(json_object_get(row, "text_hex"), size);
  *size = json_string_length(text);
  char *out = malloc(*size + 1);
  assert_non_null(out);
  memcpy(out, json_string_value(text), *size + 1);
  return out;
}

static bool ids_equal(const json_t *want, const ie_ids *ids) {
  if (json_array_size(want) != ids->count) return false;
  for (size_t i = 0; i < ids->count; i++)
    if (json_integer_value(json_array_get(want, i)) != ids->ids[i]) return false;
  return true;
}

/* Calls run for each row of a JSON-lines file; returns how many there were. */
static size_t each_row(char *path, void (*run)(const json_t *row, void *user), void *user) {
  FILE *file = fopen(path, "r");
  char *line = NULL;
  size_t capacity = 0, rows = 0;
  if (!file) fail_msg("%s: cannot open", path);
  free(path);
  while (getline(&line, &capacity, file) > 0) {
    json_t *row = json_loads(line, JSON_ALLOW_NUL, NULL);
    assert_non_null(row);
    run(row, user);
    json_decref(row);
    rows++;
  }
  free(line);
  fclose(file);
  return rows;
}

typedef struct run {
  const ie_tokenizer *tokenizer;
  const char *name;
  bool ranks; /* compare with tiktoken's ids */
  size_t wrong;
} run;

static void wrong(run *r, const json_t *row) {
  if (r->wrong++ < 5) print_error("%s %s\n", r->name, text_of(row, "case"));
}

static void check_bytes_kept(run *r, const json_t *row, const char *text, size_t size, const ie_ids *ids) {
  ie_bytes back = {0};
  ie_error error;
  assert_int_equal(ie_tokenizer_decode(r->tokenizer, ids->ids, ids->count, false, &back, &error), IE_OK);
  if (back.size != size || (size && memcmp(back.data, text, size) != 0)) wrong(r, row);
  ie_bytes_free(&back);
}

static void encode_row(const json_t *row, void *user) {
  run *r = user;
  bool invalid = json_is_true(json_object_get(row, "invalid_utf8"));
  const json_t *want = json_object_get(row, "ids"), *other = json_object_get(row, "ids_tiktoken");
  if (json_object_get(row, "oracle_error")) return;
  if (r->ranks && (json_is_true(json_object_get(row, "add_special")) ||
                   json_integer_value(json_object_get(row, "tier")) == 2))
    return;
  if (r->ranks && other) want = other;
  size_t size;
  char *text = row_text(row, &size);
  ie_encode_options options = {.special_as_text = !json_is_true(json_object_get(row, "parse_special")),
                               .add_special = json_is_true(json_object_get(row, "add_special"))};
  ie_ids ids = {0};
  ie_error error = {0};
  ie_status status = ie_tokenizer_encode(r->tokenizer, text, size, &options, &ids, &error);
  if (invalid && status == IE_FORMAT && strstr(error.message, "no token for the byte")) {
    /* GPT-NeoX has no tokens for the bytes that no text holds */
    if (strcmp(r->name, "gpt-neox-20b") != 0) wrong(r, row);
  } else if (status != IE_OK) {
    wrong(r, row);
  } else if (invalid) {
    check_bytes_kept(r, row, text, size, &ids);
  } else if (!ids_equal(want, &ids)) {
    wrong(r, row);
  }
  ie_ids_free(&ids);
  free(text);
}

static void decode_row(const json_t *row, void *user) {
  run *r = user;
  if (strncmp(text_of(row, "case"), "added_quirk", 11) == 0) return; /* bytes that are not the token's text */
  const json_t *ids = json_object_get(row, "ids"), *pieces = json_object_get(row, "pieces_hex");
  ie_detokenizer stream = {.skip_special = json_is_true(json_object_get(row, "skip_special"))};
  ie_bytes whole = {0}, piece = {0};
  ie_error error;
  for (size_t i = 0; i <= json_array_size(ids); i++) {
    bool last = i == json_array_size(ids);
    int32_t id = (int32_t)json_integer_value(json_array_get(ids, i));
    piece.size = 0;
    if (last) {
      assert_int_equal(ie_detokenizer_finish(&stream, &piece, &error), IE_OK);
    } else {
      assert_int_equal(ie_detokenizer_push(&stream, r->tokenizer, id, &piece, &error), IE_OK);
      assert_int_equal(ie_tokenizer_decode(r->tokenizer, &id, 1, stream.skip_special, &whole, &error), IE_OK);
    }
    size_t size;
    char *want = from_hex(last ? json_object_get(row, "rest_hex") : json_array_get(pieces, i), &size);
    if (size != piece.size || (size && memcmp(want, piece.data, size) != 0)) wrong(r, row);
    free(want);
  }
  size_t size;
  char *want = from_hex(json_object_get(row, "bytes_hex"), &size);
  if (size != whole.size || (size && memcmp(want, whole.data, size) != 0)) wrong(r, row);
  free(want);
  ie_bytes_free(&whole);
  ie_bytes_free(&piece);
}

/* SHA-256 over length and bytes of each id. */
static void check_table(const ie_tokenizer *tokenizer, const json_t *entry) {
  ie_buf table = {0};
  uint8_t digest[IE_SHA256_BYTES];
  char hex[2 * IE_SHA256_BYTES + 1];
  int64_t count = json_integer_value(json_object_get(entry, "n_ids"));
  assert_int_equal(ie_tokenizer_vocab(tokenizer), count);
  for (int32_t id = 0; id < count; id++) {
    size_t size;
    const char *bytes = ie_tokenizer_token(tokenizer, id, &size, NULL);
    uint32_t n = (uint32_t)size;
    ie_buf_append(&table, &n, sizeof n);
    ie_buf_append(&table, bytes, size);
  }
  assert_false(table.failed);
  ie_sha256(table.data, table.size, digest);
  ie_sha256_hex(digest, hex);
  ie_buf_free(&table);
  /* s_flags holds an added token that the library passes through its byte table, which makes ill-formed text of it */
  if (strcmp(text_of(entry, "name"), "s_flags") != 0)
    assert_string_equal(hex, text_of(entry, "id_bytes_sha256"));
}

static void encode_and_decode(void **state) {
  (void)state;
  need_data();
  char *path = root_path("golden/text", "tokenizers.json");
  json_t *list = load_json(path);
  free(path);
  size_t i, rows = 0, missed = 0;
  json_t *entry;
  ie_error error;
  json_array_foreach(json_object_get(list, "tokenizers"), i, entry) {
    const char *name = text_of(entry, "name");
    char file[128];
    ie_tokenizer *tokenizer = open_path(file_of(entry, "json"), NULL);
    run r = {.tokenizer = tokenizer, .name = name};
    check_table(tokenizer, entry);
    snprintf(file, sizeof file, "decode/%s.jsonl", name);
    rows += each_row(root_path("golden/text", file), decode_row, &r);
    snprintf(file, sizeof file, "encode/%s.jsonl", name);
    rows += each_row(root_path("golden/text", file), encode_row, &r);
    assert_int_equal(ie_tokenizer_use_regex(tokenizer, &error), IE_OK);
    rows += each_row(root_path("golden/text", file), encode_row, &r);
    ie_tokenizer_free(tokenizer);
    const json_t *tiktoken = json_object_get(entry, "tiktoken");
    if (tiktoken) {
      tokenizer = open_path(file_of(tiktoken, "file"), strcmp(name, "nanochat_8k") == 0 ? "nanochat" : name);
      r = (run){.tokenizer = tokenizer, .name = name, .ranks = true, .wrong = r.wrong};
      rows += each_row(root_path("golden/text", file), encode_row, &r);
      ie_tokenizer_free(tokenizer);
    }
    missed += r.wrong;
  }
  json_decref(list);
  assert_true(rows > 30000);
  assert_int_equal(missed, 0);
}

/* nanochat's pickle is the tokenizer of its tokenizer.json. */
static void pickle(void **state) {
  (void)state;
  need_data();
  run r = {.name = "nanochat_8k.pkl", .ranks = true};
  ie_tokenizer *tokenizer = open_path(root_path("golden/text", "tokenizers/nanochat_8k/tokenizer.pkl"), NULL);
  r.tokenizer = tokenizer;
  each_row(root_path("golden/text", "encode/nanochat_8k.jsonl"), encode_row, &r);
  each_row(root_path("golden/text", "decode/nanochat_8k.jsonl"), decode_row, &r);
  ie_tokenizer_free(tokenizer);
  assert_int_equal(r.wrong, 0);
}

/* An IETOK1 pack decodes as its tokenizer.json; with its encoding named it encodes so too. */
static void ietok(void **state) {
  (void)state;
  need_data();
  run r = {.name = "llama3_4k.ie.bin", .ranks = true};
  ie_tokenizer *tokenizer =
      open_path(root_path("golden/text", "tokenizers/ietok1/llama3_4k.ie.bin"), "llama3");
  r.tokenizer = tokenizer;
  each_row(root_path("golden/text", "encode/llama3_4k.jsonl"), encode_row, &r);
  each_row(root_path("golden/text", "decode/llama3_4k.jsonl"), decode_row, &r);
  ie_tokenizer_free(tokenizer);
  assert_int_equal(r.wrong, 0);
}

/* Tokenizers by name, opened when a row asks for another one. */
typedef struct opened {
  json_t *list;
  ie_tokenizer *tokenizer;
  char name[64];
  bool regex;
  size_t wrong;
} opened;

static const ie_tokenizer *opened_get(opened *o, const char *name) {
  size_t i;
  json_t *entry;
  if (strcmp(o->name, name) == 0) return o->tokenizer;
  ie_tokenizer_free(o->tokenizer);
  o->tokenizer = NULL;
  json_array_foreach(json_object_get(o->list, "tokenizers"), i, entry) {
    if (strcmp(text_of(entry, "name"), name) == 0) o->tokenizer = open_path(file_of(entry, "json"), NULL);
  }
  assert_non_null(o->tokenizer);
  if (o->regex) assert_int_equal(ie_tokenizer_use_regex(o->tokenizer, NULL), IE_OK);
  snprintf(o->name, sizeof o->name, "%s", name);
  return o->tokenizer;
}

static void offsets_row(const json_t *row, void *user) {
  opened *o = user;
  const ie_tokenizer *tokenizer = opened_get(o, text_of(row, "tokenizer"));
  const json_t *want = json_object_get(row, "byte_offsets");
  size_t size;
  char *text = row_text(row, &size);
  ie_ids ids = {0};
  ie_span *spans;
  ie_error error;
  assert_int_equal(ie_tokenizer_encode_spans(tokenizer, text, size, NULL, &ids, &spans, &error), IE_OK);
  bool same = ids_equal(json_object_get(row, "ids"), &ids);
  for (size_t i = 0; same && i < ids.count; i++)
    same = (size_t)json_integer_value(json_array_get(json_array_get(want, i), 0)) == spans[i].start &&
           (size_t)json_integer_value(json_array_get(json_array_get(want, i), 1)) == spans[i].end;
  if (!same && o->wrong++ < 5) print_error("offsets: %s %s\n", o->name, text_of(row, "case"));
  free(spans);
  free(text);
  ie_ids_free(&ids);
}

static void big_row(const json_t *row, void *user) {
  opened *o = user;
  const ie_tokenizer *tokenizer = opened_get(o, text_of(row, "tokenizer"));
  ie_buf text = {0};
  ie_error error = {0};
  size_t i, from = 0;
  json_t *part;
  json_array_foreach(json_object_get(row, "text_repeat"), i, part) {
    for (json_int_t n = json_integer_value(json_array_get(part, 1)); n > 0; n--)
      ie_buf_append(&text, json_string_value(json_array_get(part, 0)),
                    json_string_length(json_array_get(part, 0)));
  }
  const char *data = text_of(row, "text_data"), *file = text_of(row, "text_file");
  if (data || file) {
    char *path = data ? root_path("data", data) : root_path("golden/text", file);
    assert_int_equal(ie_file_read(path, (size_t)1 << 30, &text, &error), IE_OK);
    free(path);
  }
  const json_t *range = json_object_get(row, "byte_range");
  if (range) {
    from = (size_t)json_integer_value(json_array_get(range, 0));
    text.size = (size_t)json_integer_value(json_array_get(range, 1));
  }
  uint8_t digest[IE_SHA256_BYTES];
  char hex[2 * IE_SHA256_BYTES + 1];
  ie_encode_options options = {.special_as_text = !json_is_true(json_object_get(row, "parse_special")),
                               .add_special = json_is_true(json_object_get(row, "add_special"))};
  ie_ids ids = {0};
  assert_int_equal(ie_tokenizer_encode(tokenizer, text.data + from, text.size - from, &options, &ids, &error),
                   IE_OK);
  ie_sha256(ids.ids, ids.count * sizeof *ids.ids, digest);
  ie_sha256_hex(digest, hex);
  if (strcmp(hex, text_of(row, "ids_sha256")) != 0 && o->wrong++ < 5)
    print_error("long text: %s %s\n", o->name, text_of(row, "case"));
  ie_ids_free(&ids);
  ie_buf_free(&text);
}

static void by_rows(const char *name, bool regex, void (*row)(const json_t *, void *), size_t least) {
  need_data();
  char *path = root_path("golden/text", "tokenizers.json");
  opened o = {.list = load_json(path), .regex = regex};
  free(path);
  size_t rows = each_row(root_path("golden/text", name), row, &o);
  ie_tokenizer_free(o.tokenizer);
  json_decref(o.list);
  assert_true(rows >= least);
  assert_int_equal(o.wrong, 0);
}

static void offsets(void **state) {
  (void)state;
  by_rows("encode_offsets.jsonl", false, offsets_row, 100);
}

static void long_texts(void **state) {
  (void)state;
  by_rows("big.jsonl", false, big_row, 100);
}

static void long_texts_by_regex(void **state) {
  (void)state;
  by_rows("big.jsonl", true, big_row, 100);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(encode_and_decode),
      cmocka_unit_test(pickle),
      cmocka_unit_test(ietok),
      cmocka_unit_test(offsets),
      cmocka_unit_test(long_texts),
      cmocka_unit_test(long_texts_by_regex),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
