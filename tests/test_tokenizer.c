/* The tokenizer against what the reference libraries answer (tests/data/text, tools/golden/text_vectors.py), by the
 * hand-written splitters and by PCRE2; and what must hold of any tokenizer. */
#include "text/tokenizer.h"

#include "clocher/text.h"
#include "text/bpe.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DATA "tests/data/text/"

static const char *const committed[] = {
    "o200k_600.tokenizer.json", "qwen_600.tokenizer.json",  "flags.tokenizer.json",
    "template.tokenizer.json",  "prefix.tokenizer.json",    "digits.tokenizer.json",
    "splits.tokenizer.json",    "behaviors.tokenizer.json", "unk.tokenizer.json",
    "words.tokenizer.json",     "nanochat_500.pkl",         "nanochat_500.tiktoken",
    "qwen_4000.tiktoken",       "o200k_600.ie.bin",         NULL,
};

static const char *encoding_of(const char *name) {
  if (strncmp(name, "nanochat_500.t", 14) == 0) return "nanochat";
  return strncmp(name, "qwen_4000", 9) == 0       ? "qwen3"
         : strncmp(name, "o200k_600.ie", 12) == 0 ? "o200k_harmony"
                                                  : NULL;
}

static ie_tokenizer *open_named(const char *name, const char *encoding) {
  char path[512];
  snprintf(path, sizeof path, DATA "%s", name);
  ie_tokenizer_options options = {.encoding = encoding};
  ie_tokenizer *tokenizer;
  ie_error error = {0};
  if (ie_tokenizer_open(path, &options, &tokenizer, &error) != IE_OK) fail_msg("%s", error.message);
  return tokenizer;
}

/* ---- vectors ---- */

static void check_ids(const json_t *row, const ie_ids *ids, const char *how) {
  const json_t *want = json_object_get(row, "ids");
  bool same = json_array_size(want) == ids->count;
  for (size_t i = 0; same && i < ids->count; i++)
    same = json_integer_value(json_array_get(want, i)) == ids->ids[i];
  if (same) return;
  char *text = json_dumps(row, JSON_COMPACT | JSON_ENSURE_ASCII);
  print_error("%s: found [", how);
  for (size_t i = 0; i < ids->count; i++) print_error("%d,", ids->ids[i]);
  print_error("] for %s\n", text);
  free(text);
  fail();
}

static void check_row(const json_t *row, const ie_tokenizer *tokenizer, const char *how) {
  const json_t *text = json_object_get(row, "text"), *offsets = json_object_get(row, "offsets");
  ie_encode_options options = {.special_as_text = !json_is_true(json_object_get(row, "parse_special")),
                               .add_special = json_is_true(json_object_get(row, "add_special"))};
  ie_ids ids = {0};
  ie_span *spans;
  ie_error error = {0};
  const char *bytes = json_string_value(text);
  size_t size = json_string_length(text);
  assert_int_equal(ie_tokenizer_encode(tokenizer, bytes, size, &options, &ids, &error), IE_OK);
  check_ids(row, &ids, how);
  ids.count = 0;
  assert_int_equal(ie_tokenizer_encode_spans(tokenizer, bytes, size, &options, &ids, &spans, &error), IE_OK);
  check_ids(row, &ids, how);
  for (size_t i = 0; i < json_array_size(offsets); i++) {
    const json_t *range = json_array_get(offsets, i);
    if ((size_t)json_integer_value(json_array_get(range, 0)) != spans[i].start ||
        (size_t)json_integer_value(json_array_get(range, 1)) != spans[i].end)
      fail_msg("%s: token %zu of '%s': found [%zu,%zu), expected [%lld,%lld)", how, i, bytes, spans[i].start,
               spans[i].end, json_integer_value(json_array_get(range, 0)),
               json_integer_value(json_array_get(range, 1)));
  }
  free(spans);
  ie_ids_free(&ids);
}

static void run_vectors(bool regex) {
  FILE *file = fopen(DATA "vectors.jsonl", "r");
  assert_non_null(file);
  ie_tokenizer *tokenizer = NULL;
  char opened[256] = "", *line = NULL;
  size_t capacity = 0, rows = 0;
  ie_error error = {0};
  while (getline(&line, &capacity, file) > 0) {
    json_t *row = json_loads(line, JSON_ALLOW_NUL, NULL);
    assert_non_null(row);
    const char *name = json_string_value(json_object_get(row, "tokenizer"));
    const char *encoding = json_string_value(json_object_get(row, "encoding"));
    char key[256];
    snprintf(key, sizeof key, "%s %s", name, encoding ? encoding : "");
    if (strcmp(key, opened) != 0) {
      ie_tokenizer_free(tokenizer);
      tokenizer = open_named(name, encoding);
      if (regex) assert_int_equal(ie_tokenizer_use_regex(tokenizer, &error), IE_OK);
      strcpy(opened, key);
    }
    check_row(row, tokenizer, key);
    json_decref(row);
    rows++;
  }
  assert_true(rows > 1000);
  ie_tokenizer_free(tokenizer);
  free(line);
  fclose(file);
}

static void vectors_by_hand(void **state) {
  (void)state;
  run_vectors(false);
}
static void vectors_by_regex(void **state) {
  (void)state;
  run_vectors(true);
}

/* ---- properties ---- */

static uint64_t next_random(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return *state >> 33;
}

/* Bytes that are half UTF-8, half not, with things that tokenizers care about. */
static size_t random_text(uint64_t *state, char *out, size_t most) {
  static const char *const parts[] = {
      "<|start|>",    "'s",       "  ",   "\n",       "\xE2\x80\xA8",    "\xC3\xA9",
      "\xE4\xB8\xAD", "hello",    " the", "\xE2\x82", "\xF0\x9F\x98",    "\xED\xA0\x80",
      "12345",        "\xCC\x81", "\xFF", "A",        "\xF0\x9F\x98\x80"};
  size_t n = 0, want = next_random(state) % most;
  while (n < want) {
    uint64_t r = next_random(state);
    if (r % 3 == 0) {
      out[n++] = (char)(r >> 8);
    } else {
      const char *part = parts[(r >> 8) % (sizeof parts / sizeof parts[0])];
      size_t size = strlen(part);
      if (n + size > most) break;
      memcpy(out + n, part, size);
      n += size;
    }
  }
  return n;
}

/* Tokenizers that keep every byte: no normaliser, no added space, all 256 bytes, nothing that swallows. */
static void any_bytes_come_back(void **state) {
  (void)state;
  static const char *const names[] = {"o200k_600.tokenizer.json", "digits.tokenizer.json",
                                      "splits.tokenizer.json", "nanochat_500.pkl", "nanochat_500.tiktoken"};
  uint64_t seed = 7;
  for (size_t t = 0; t < sizeof names / sizeof names[0]; t++) {
    ie_tokenizer *tokenizer = open_named(names[t], encoding_of(names[t]));
    for (int round = 0; round < 2000; round++) {
      char text[600];
      size_t size = random_text(&seed, text, sizeof text);
      ie_encode_options options = {.special_as_text = round & 1};
      ie_ids ids = {0};
      ie_bytes back = {0};
      ie_error error = {0};
      assert_int_equal(ie_tokenizer_encode(tokenizer, text, size, &options, &ids, &error), IE_OK);
      assert_int_equal(ie_tokenizer_decode(tokenizer, ids.ids, ids.count, false, &back, &error), IE_OK);
      assert_int_equal(back.size, size);
      if (size) assert_memory_equal(back.data, text, size);
      ie_ids_free(&ids);
      ie_bytes_free(&back);
    }
    ie_tokenizer_free(tokenizer);
  }
}

/* A long text goes through the piece cache, its lines alone do not: both give the same ids. The text is made so
 * that a line break always ends a piece and none is joined with another. */
static void cache_changes_nothing(void **state) {
  (void)state;
  ie_tokenizer *tokenizer = open_named("o200k_600.tokenizer.json", NULL);
  static const char *const words[] = {"the", " thing",        " AbC",     "'s", "12345", " \xC3\xA9t\xC3\xA9",
                                      "!?",  " \xE4\xB8\xAD", "<|start|>"};
  uint64_t seed = 11;
  for (int round = 0; round < 30; round++) {
    static char text[100000];
    size_t size = 0;
    ie_ids parts = {0}, whole = {0};
    ie_error error = {0};
    for (int k = 0; k < 500; k++) {
      size_t start = size;
      for (uint64_t n = next_random(&seed) % 9; n > 0; n--) {
        const char *word = words[next_random(&seed) % (sizeof words / sizeof words[0])];
        memcpy(text + size, word, strlen(word));
        size += strlen(word);
      }
      memcpy(text + size, "x\n", 2);
      size += 2;
      assert_int_equal(ie_tokenizer_encode(tokenizer, text + start, size - start, NULL, &parts, &error),
                       IE_OK);
    }
    assert_true(size > 4096);
    assert_int_equal(ie_tokenizer_encode(tokenizer, text, size, NULL, &whole, &error), IE_OK);
    assert_int_equal(whole.count, parts.count);
    assert_memory_equal(whole.ids, parts.ids, parts.count * sizeof *parts.ids);
    ie_ids_free(&parts);
    ie_ids_free(&whole);
  }
  ie_tokenizer_free(tokenizer);
}

/* A piece of any length merges as a short one does: the linear search and the heap agree. */
static void heap_equals_search(void **state) {
  (void)state;
  ie_tokenizer *tokenizer = open_named("qwen_4000.tiktoken", "qwen3");
  const ie_image *image = &tokenizer->image;
  uint64_t seed = 3;
  for (int round = 0; round < 300; round++) {
    char piece[IE_BPE_SHORT];
    size_t n = 1 + next_random(&seed) % (IE_BPE_SHORT - 1);
    for (size_t i = 0; i < n; i++) piece[i] = "aeinorst"[next_random(&seed) % (unsigned)(round % 8 + 1)];
    ie_bpe small = {.image = image}, large = {.image = image};
    ie_error error;
    assert_int_equal(ie_bpe_run(&small, piece, n, &error), IE_OK);
    assert_int_equal(ie_bpe_run_long(&large, piece, n, &error), IE_OK);
    assert_int_equal(small.count, large.count);
    assert_memory_equal(small.ids, large.ids, small.count * sizeof *small.ids);
    assert_memory_equal(small.sizes, large.sizes, small.count * sizeof *small.sizes);
    ie_bpe_free(&small);
    ie_bpe_free(&large);
  }
  ie_tokenizer_free(tokenizer);
}

/* Whether n bytes are the beginning of a character and not a whole one: some bytes behind them complete it. */
static bool begins_character(const char *p, size_t n) {
  static const char bounds[] =
      "\x80\x8F\x90\x9F\xA0\xBF"; /* ends of the ranges that a second byte may have */
  char whole[8];
  uint32_t c;
  memcpy(whole, p, n);
  for (size_t total = n + 1; total <= 4; total++)
    for (size_t k = 0; k < 6 * 6 * 6; k++) {
      const size_t digits[3] = {k % 6, k / 6 % 6, k / 36};
      for (size_t i = n; i < total; i++) whole[i] = bounds[digits[i - n]];
      if (ie_utf8_decode(whole, total, &c) == total) return true;
    }
  return false;
}

/* What is held back is the longest end that begins a character; what was shown and is held are all bytes. */
static void streams_never_cut_characters(void **state) {
  (void)state;
  ie_tokenizer *tokenizer = open_named("o200k_600.tokenizer.json", NULL);
  uint64_t seed = 5;
  for (int round = 0; round < 1000; round++) {
    int32_t ids[48];
    size_t count = next_random(&seed) % 48;
    for (size_t i = 0; i < count; i++) ids[i] = (int32_t)(next_random(&seed) % (round & 1 ? 256u : 700u));
    ie_detokenizer stream = {.skip_special = round & 2};
    ie_bytes whole = {0}, shown = {0};
    ie_error error;
    for (size_t i = 0; i < count; i++) {
      size_t before = shown.size;
      assert_int_equal(ie_tokenizer_decode(tokenizer, ids + i, 1, stream.skip_special, &whole, &error),
                       IE_OK);
      assert_int_equal(ie_detokenizer_push(&stream, tokenizer, ids[i], &shown, &error), IE_OK);
      size_t held = (size_t)stream.held_size;
      assert_int_equal(shown.size + held, whole.size);
      if (shown.size) assert_memory_equal(shown.data, whole.data, shown.size);
      if (held) assert_memory_equal(stream.held, whole.data + shown.size, held);
      if (held) assert_true(begins_character(stream.held, held));
      /* nothing that was shown with this id had to be held together with what is held */
      if (shown.size > before && held < 3)
        assert_false(begins_character(whole.data + shown.size - 1, held + 1));
    }
    assert_int_equal(ie_detokenizer_finish(&stream, &shown, &error), IE_OK);
    assert_int_equal(stream.held_size, 0);
    assert_int_equal(shown.size, whole.size);
    if (whole.size) assert_memory_equal(shown.data, whole.data, whole.size);
    ie_bytes_free(&whole);
    ie_bytes_free(&shown);
  }
  ie_tokenizer_free(tokenizer);
}

static void tokens_and_names(void **state) {
  (void)state;
  ie_tokenizer *t = open_named("../harmony/o200k_4000.tiktoken", "o200k_harmony");
  size_t size;
  bool special;
  assert_int_equal(ie_tokenizer_vocab(t), 201088);
  assert_string_equal(ie_tokenizer_kind(t), "tiktoken");
  assert_int_equal(ie_tokenizer_special_id(t, "<|call|>"), 200012);
  assert_int_equal(ie_tokenizer_special_id(t, "<|endofprompt|>"), 200018);
  assert_int_equal(ie_tokenizer_special_id(t, "<|reserved_200018|>"), 200018);
  assert_int_equal(ie_tokenizer_special_id(t, "<|nothing|>"), -1);
  assert_memory_equal(ie_tokenizer_token(t, 200008, &size, &special), "<|message|>", 11);
  assert_int_equal(size, 11);
  assert_true(special);
  ie_tokenizer_token(t, 5000, &size, &special); /* a gap */
  assert_int_equal(size, 0);
  assert_false(special);
  const int32_t outside[] = {-1, 201088, INT32_MAX, INT32_MIN};
  for (size_t i = 0; i < 4; i++) {
    ie_tokenizer_token(t, outside[i], &size, &special);
    assert_int_equal(size, 0);
  }
  ie_tokenizer_free(t);
}

/* A kind that cannot be known from the file refuses to encode, and decodes all the same. */
static void ietok_without_encoding(void **state) {
  (void)state;
  ie_tokenizer *t = open_named("o200k_600.ie.bin", NULL),
               *full = open_named("o200k_600.tokenizer.json", NULL);
  ie_ids ids = {0};
  ie_error error;
  assert_int_equal(ie_tokenizer_encode(t, "a", 1, NULL, &ids, &error), IE_UNSUPPORTED);
  assert_non_null(strstr(error.message, "encoding"));
  assert_int_equal(ids.count, 0);
  assert_int_equal(ie_tokenizer_vocab(t), ie_tokenizer_vocab(full));
  for (int32_t id = 0; id < ie_tokenizer_vocab(t); id++) {
    size_t a, b;
    const char *x = ie_tokenizer_token(t, id, &a, NULL), *y = ie_tokenizer_token(full, id, &b, NULL);
    assert_int_equal(a, b);
    assert_memory_equal(x, y, a);
  }
  ie_tokenizer_free(t);
  t = open_named("o200k_600.ie.bin", "o200k_harmony");
  static const char text[] = "the <|start|>user's 1234 thing";
  ie_ids other = {0};
  assert_int_equal(ie_tokenizer_encode(t, text, strlen(text), NULL, &ids, &error), IE_OK);
  assert_int_equal(ie_tokenizer_encode(full, text, strlen(text), NULL, &other, &error), IE_OK);
  assert_int_equal(ids.count, other.count);
  assert_memory_equal(ids.ids, other.ids, ids.count * sizeof *ids.ids);
  ie_ids_free(&ids);
  ie_ids_free(&other);
  ie_tokenizer_free(t);
  ie_tokenizer_free(full);
}

/* ---- wrong files ---- */

static void cut_at_every_byte(void **state) {
  (void)state;
  for (size_t t = 0; committed[t]; t++) {
    char path[512];
    snprintf(path, sizeof path, DATA "%s", committed[t]);
    ie_buf file = {0};
    ie_error error;
    assert_int_equal(ie_file_read(path, 1 << 24, &file, &error), IE_OK);
    /* a rank file may end behind any line, so for that kind only the calls are tested */
    bool lines = strstr(committed[t], ".tiktoken");
    /* all cuts of the small files, both ends and a part of the others */
    size_t step = file.size > 20000 ? 997 : file.size > 6000 ? 61 : 1;
    for (size_t n = 0, next = 0; n < file.size; n = next) {
      next = n + (n < 64 || n + 64 > file.size ? 1 : step);
      void *image;
      size_t size;
      char *copy = malloc(n ? n : 1); /* of the exact size, so that a read beyond it is seen */
      memcpy(copy, file.data, n);
      ie_status status = ie_tokenizer_read("cut", copy, n, encoding_of(committed[t]), &image, &size, &error);
      free(copy);
      if (status == IE_OK) {
        if (!lines) fail_msg("%s cut to %zu of %zu bytes was accepted", committed[t], n, file.size);
        free(image);
      } else {
        assert_null(image);
        assert_true(status == IE_FORMAT || status == IE_UNSUPPORTED);
        assert_true(strlen(error.message) > 8);
      }
    }
    ie_buf_free(&file);
  }
}

static void refused(const char *json, ie_status want, const char *word) {
  void *image;
  size_t size;
  ie_error error = {0};
  assert_int_equal(ie_tokenizer_read("file", json, strlen(json), NULL, &image, &size, &error), want);
  if (!strstr(error.message, word)) fail_msg("'%s' does not name %s", error.message, word);
}

#define BPE         "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}"
#define WITH(part)  "{" part ",\"pre_tokenizer\":{\"type\":\"ByteLevel\"}," BPE "}"
#define PRE(part)   "{\"pre_tokenizer\":" part "," BPE "}"
#define MODEL(part) "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{" part "}}"
#define VOCAB       "\"vocab\":{\"a\":0,\"b\":1}"
#define REGEX(p)    PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" p "\"},\"behavior\":\"Isolated\"}")

static void other_components_are_refused_by_name(void **state) {
  (void)state;
  refused(WITH("\"normalizer\":{\"type\":\"Lowercase\"}"), IE_UNSUPPORTED, "Lowercase");
  refused(WITH("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Strip\"}]}"),
          IE_UNSUPPORTED, "Strip");
  refused(WITH("\"post_processor\":{\"type\":\"BertProcessing\"}"), IE_UNSUPPORTED, "BertProcessing");
  refused(WITH("\"decoder\":{\"type\":\"Metaspace\"}"), IE_UNSUPPORTED, "Metaspace");
  refused(WITH("\"truncation\":{\"max_length\":5}"), IE_UNSUPPORTED, "truncation");
  refused(WITH("\"padding\":{}"), IE_UNSUPPORTED, "padding");
  refused(PRE("{\"type\":\"Whitespace\"}"), IE_UNSUPPORTED, "Whitespace");
  refused(PRE("null"), IE_UNSUPPORTED, "ByteLevel");
  refused(PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"Digits\"}]}"),
          IE_UNSUPPORTED, "Digits");
  refused(PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Odd\"}"), IE_UNSUPPORTED,
          "Odd");
  refused(MODEL("\"type\":\"WordPiece\"," VOCAB), IE_UNSUPPORTED, "WordPiece");
  refused(MODEL("\"byte_fallback\":true,\"merges\":[]," VOCAB), IE_UNSUPPORTED, "byte_fallback");
  refused(MODEL("\"dropout\":0.1,\"merges\":[]," VOCAB), IE_UNSUPPORTED, "dropout");
  refused(MODEL("\"continuing_subword_prefix\":\"##\",\"merges\":[]," VOCAB), IE_UNSUPPORTED,
          "continuing_subword_prefix");
  refused(MODEL("\"end_of_word_suffix\":\"x\",\"merges\":[]," VOCAB), IE_UNSUPPORTED, "end_of_word_suffix");
  refused(MODEL("\"merges\":[\"a b\"]," VOCAB), IE_FORMAT, "merge 0");
  refused(MODEL("\"merges\":[[\"a\",\"c\"]]," VOCAB), IE_FORMAT, "merge 0");
  refused(MODEL("\"merges\":[\"a b c\"]," VOCAB), IE_FORMAT, "merge 0");
  refused(MODEL("\"merges\":[7]," VOCAB), IE_FORMAT, "merge 0");
  refused(MODEL("\"merges\":[],\"vocab\":{\"a\":0,\"b\":0}"), IE_FORMAT, "id 0");
  refused(MODEL("\"merges\":[],\"vocab\":{\"a\":-1}"), IE_FORMAT, "-1");
  refused(MODEL("\"merges\":[],\"vocab\":{\"a\":99999999999}"), IE_FORMAT, "99999999999");
  refused(MODEL("\"merges\":[],\"unk_token\":\"u\"," VOCAB), IE_FORMAT, "unk_token");
  refused("{\"added_tokens\":[{\"id\":7,\"content\":\"<x>\"}],\"pre_tokenizer\":{\"type\":\"ByteLevel\"}," BPE
          "}",
          IE_UNSUPPORTED, "<x>");
  refused("{}", IE_FORMAT, "model");
  refused("[1]", IE_FORMAT, "expected");
  refused("", IE_FORMAT, "empty");
  refused("YQ== 0\nYQ== 1\n", IE_INVALID_ARGUMENT, "encoding");
}

static void other_patterns_are_refused_by_name(void **state) {
  (void)state;
  static const char *const cases[][2] = {
      {"\\\\p{Han}+", "Han"},
      {"a$", "$"},
      {"^a", "^"},
      {"[a[bc]]", "class inside a class"},
      {"[a&&b]", "&&"},
      {"(?i)a", "group"},
      {"(?<n>a)", "group"},
      {"\\\\bx", "\\b"},
      {"\\\\1", "\\1"},
      {"\\\\h", "\\h"},
      {"(?i:ss)", "ligature"},
      {"(?i:\\u00e9)", "ASCII"},
      {"[[:alpha:]]", "class"},
      {"a{2}?", "{n}?"},
      {"a{2,3}+", "after {}"},
      {"\\\\x{110000}", "hexadecimal"},
      {"\\\\pL", "\\p"},
      {"[z-a]", "backwards"},
      {"\\\\", "backslash"},
      {"[\\\\p{L}-z]", "property"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char json[512];
    void *image = NULL;
    size_t size;
    ie_tokenizer *t = NULL;
    ie_error error = {0};
    snprintf(json, sizeof json,
             PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
                 "\"%s\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\"}]}"),
             cases[i][0]);
    assert_int_equal(ie_tokenizer_read("file", json, strlen(json), NULL, &image, &size, &error), IE_OK);
    assert_int_equal(ie_tokenizer_from_image(image, size, NULL, "file", &t, &error), IE_UNSUPPORTED);
    assert_null(t);
    if (!strstr(error.message, cases[i][1])) fail_msg("'%s' does not name %s", error.message, cases[i][1]);
  }
}

static void pickles_of_other_things_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t size;
    ie_status want;
  } cases[] = {
#define PICKLE(s, want) {s, sizeof s - 1, want}
      PICKLE("\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.", IE_UNSUPPORTED),
      PICKLE("\x80\x04"
             "cposix\nsystem\n.",
             IE_UNSUPPORTED),
      PICKLE("\x80\x04}.", IE_FORMAT),
      PICKLE("\x80\x04\x8c\x0dtiktoken.core\x8c\x08"
             "Encoding\x93)\x81.",
             IE_FORMAT),
      PICKLE("\x80\x04\x8c\x0dtiktoken.core\x8c\x08"
             "Encoding\x93)\x81}b.",
             IE_FORMAT),
      PICKLE("\x80\x04\x94.", IE_FORMAT),
      PICKLE("\x80\x04h\x05.", IE_FORMAT),
      PICKLE("\x80\x04u.", IE_FORMAT),
      PICKLE("\x80\x04s.", IE_FORMAT),
      PICKLE("\x80\x04"
             "B\xff\xff\xff\xff.",
             IE_FORMAT),
      PICKLE("\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", IE_FORMAT),
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    void *image;
    size_t size;
    ie_error error = {0};
    assert_int_equal(ie_tokenizer_read("p", cases[i].bytes, cases[i].size, NULL, &image, &size, &error),
                     cases[i].want);
    assert_null(image);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(vectors_by_hand),
      cmocka_unit_test(vectors_by_regex),
      cmocka_unit_test(any_bytes_come_back),
      cmocka_unit_test(cache_changes_nothing),
      cmocka_unit_test(heap_equals_search),
      cmocka_unit_test(streams_never_cut_characters),
      cmocka_unit_test(tokens_and_names),
      cmocka_unit_test(ietok_without_encoding),
      cmocka_unit_test(cut_at_every_byte),
      cmocka_unit_test(other_components_are_refused_by_name),
      cmocka_unit_test(other_patterns_are_refused_by_name),
      cmocka_unit_test(pickles_of_other_things_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
