#include "text/tokenizer_write.h"

#include "text/byte_level.h"
#include "text/unicode.h"

#include <string.h>

/* The characters of GPT-2's table by their byte. */
typedef struct byte_chars {
  uint16_t code_point[256];
} byte_chars;

static void byte_chars_init(byte_chars *chars) {
  ie_byte_level table;
  ie_byte_level_init(&table);
  for (int c = 0; c < IE_BYTE_LEVEL_CHARS; c++)
    if (table.byte[c] >= 0) chars->code_point[table.byte[c]] = (uint16_t)c;
}

/* ---- JSON ---- */

/* Text inside a JSON string. */
static void put_escaped(ie_buf *out, const char *text, size_t size) {
  for (size_t i = 0; i < size; i++) {
    char c = text[i];
    if (c == '"' || c == '\\')
      ie_buf_printf(out, "\\%c", c);
    else if ((uint8_t)c < 0x20 || c == 0x7F)
      ie_buf_printf(out, "\\u%04x", (unsigned)c);
    else
      ie_buf_append_char(out, c);
  }
}

static void put_string(ie_buf *out, const char *text) {
  ie_buf_append_char(out, '"');
  put_escaped(out, text, strlen(text));
  ie_buf_append_char(out, '"');
}

/* A token as it stands in the vocabulary, inside a JSON string. */
static void put_token(ie_buf *out, const ie_tokenizer_parts *parts, const byte_chars *chars, uint32_t id) {
  const ie_merges *m = parts->merges;
  uint32_t plain = m->tokens - m->specials;
  if (id >= plain) {
    put_escaped(out, parts->specials[id - plain], strlen(parts->specials[id - plain]));
    return;
  }
  for (size_t i = m->offset[id]; i < m->offset[id + 1]; i++) {
    char utf8[4];
    put_escaped(out, utf8, ie_utf8_encode(chars->code_point[(uint8_t)m->bytes.data[i]], utf8));
  }
}

static ie_status buf_status(const ie_buf *out, ie_error *error) {
  return out->failed ? ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the tokenizer's files")
                     : IE_OK;
}

ie_status ie_tokenizer_write_json(const ie_tokenizer_parts *parts, ie_buf *out, ie_error *error) {
  const ie_merges *m = parts->merges;
  uint32_t plain = m->tokens - m->specials;
  byte_chars chars;
  byte_chars_init(&chars);
  ie_buf_append_str(out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n"
                         "  \"added_tokens\": [");
  for (uint32_t i = 0; i < m->specials; i++) {
    ie_buf_printf(out, "%s\n    {\"id\": %u, \"content\": ", i ? "," : "", plain + i);
    put_string(out, parts->specials[i]);
    ie_buf_append_str(out, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                           "\"normalized\": false, \"special\": true}");
  }
  ie_buf_printf(out,
                "%s],\n  \"normalizer\": null,\n  \"pre_tokenizer\": {\n    \"type\": \"Sequence\",\n"
                "    \"pretokenizers\": [\n      {\"type\": \"Split\", \"pattern\": {\"Regex\": ",
                m->specials ? "\n  " : "");
  put_string(out, parts->pattern);
  ie_buf_append_str(
      out, "}, \"behavior\": \"Isolated\", \"invert\": false},\n"
           "      {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
           "\"use_regex\": false}\n    ]\n  },\n  \"post_processor\": null,\n"
           "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": "
           "true, \"use_regex\": true},\n"
           "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
           "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
           "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n"
           "    \"vocab\": {");
  for (uint32_t id = 0; id < m->tokens; id++) {
    ie_buf_append_str(out, id ? ",\n      \"" : "\n      \"");
    put_token(out, parts, &chars, id);
    ie_buf_printf(out, "\": %u", id);
  }
  ie_buf_append_str(out, "\n    },\n    \"merges\": [");
  for (size_t i = 0; i < m->count; i++) {
    ie_buf_append_str(out, i ? ",\n      \"" : "\n      \"");
    put_token(out, parts, &chars, m->merges[i].left);
    ie_buf_append_char(out, ' ');
    put_token(out, parts, &chars, m->merges[i].right);
    ie_buf_append_char(out, '"');
  }
  ie_buf_append_str(out, m->count ? "\n    ]\n  }\n}\n" : "]\n  }\n}\n");
  return buf_status(out, error);
}

/* The first of the names that is a special token, or NULL. */
static const char *special_choose(const ie_tokenizer_parts *parts, const char *const *names) {
  for (; *names; names++)
    for (uint32_t i = 0; i < parts->merges->specials; i++)
      if (strcmp(parts->specials[i], *names) == 0) return *names;
  return NULL;
}

static void put_member(ie_buf *out, const char *key, const char *value) {
  if (!value) return;
  ie_buf_printf(out, "  \"%s\": ", key);
  put_string(out, value);
  ie_buf_append_str(out, ",\n");
}

ie_status ie_tokenizer_write_config(const ie_tokenizer_parts *parts, ie_buf *out, ie_error *error) {
  static const char *const begins[] = {"<|startoftext|>", "<|bos|>", NULL};
  static const char *const ends[] = {"<|return|>", "<|endoftext|>", "<|assistant_end|>", NULL};
  static const char *const pads[] = {"<|endoftext|>", "<|bos|>", NULL};
  ie_buf_append_str(out, "{\n");
  put_member(out, "bos_token", special_choose(parts, begins));
  put_member(out, "eos_token", special_choose(parts, ends));
  put_member(out, "pad_token", special_choose(parts, pads));
  ie_buf_append_str(out, "  \"clean_up_tokenization_spaces\": false,\n"
                         "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
  return buf_status(out, error);
}

/* ---- ranks ---- */

static void put_base64(ie_buf *out, const uint8_t *bytes, size_t size) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < size; i += 3) {
    uint32_t word = (uint32_t)bytes[i] << 16;
    if (i + 1 < size) word |= (uint32_t)bytes[i + 1] << 8;
    if (i + 2 < size) word |= bytes[i + 2];
    const char four[4] = {digits[word >> 18], digits[word >> 12 & 63],
                          i + 1 < size ? digits[word >> 6 & 63] : '=',
                          i + 2 < size ? digits[word & 63] : '='};
    ie_buf_append(out, four, 4);
  }
}

ie_status ie_tokenizer_write_ranks(const ie_tokenizer_parts *parts, ie_buf *out, ie_error *error) {
  const ie_merges *m = parts->merges;
  for (uint32_t id = 0; id < m->tokens - m->specials; id++) {
    put_base64(out, (const uint8_t *)m->bytes.data + m->offset[id], m->offset[id + 1] - m->offset[id]);
    ie_buf_printf(out, " %u\n", id);
  }
  return buf_status(out, error);
}
