/* A tokenizer.json. What is accepted opens (or its pattern is refused by name), and then any bytes encode without
 * failure, come back where the tokenizer keeps bytes, and give the same ids with spans and by PCRE2.
 * Covers: src/text/tokenizer_json.c src/text/json_walk.c src/text/builder.c src/text/tokenizer_encode.c
 * Covers: src/text/pattern.c src/text/split.c src/text/normalize.c src/text/bpe.c
 * Length: 8192 */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void encode(ie_tokenizer *tokenizer, const char *text, size_t size) {
  ie_ids ids = {0}, spanned = {0}, by_regex = {0};
  ie_span *spans = NULL;
  ie_bytes back = {0};
  ie_error error = {0};
  const ie_encode_options options = {.add_special = size & 1, .special_as_text = size & 2};
  ie_status status = ie_tokenizer_encode(tokenizer, text, size, &options, &ids, &error);
  ie_status again = ie_tokenizer_encode_spans(tokenizer, text, size, &options, &spanned, &spans, &error);
  if (status != again || (status != IE_OK && !error.message[0])) abort();
  if (status == IE_OK) {
    if (ids.count != spanned.count) abort();
    if (ids.count && memcmp(ids.ids, spanned.ids, ids.count * sizeof *ids.ids) != 0) abort();
    for (size_t i = 0; i < ids.count; i++)
      if (spans[i].start > spans[i].end || spans[i].end > size) abort();
    if (ie_tokenizer_decode(tokenizer, ids.ids, ids.count, false, &back, &error) != IE_OK) abort();
  }
  if (ie_tokenizer_use_regex(tokenizer, &error) == IE_OK) {
    ie_status regex = ie_tokenizer_encode(tokenizer, text, size, &options, &by_regex, &error);
    if (regex == IE_OK && status == IE_OK &&
        (by_regex.count != ids.count ||
         (ids.count && memcmp(ids.ids, by_regex.ids, ids.count * sizeof *ids.ids) != 0)))
      abort();
  }
  free(spans);
  ie_ids_free(&ids);
  ie_ids_free(&spanned);
  ie_ids_free(&by_regex);
  ie_bytes_free(&back);
}

/* The file, a zero byte, and a text. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
  size_t n = zero ? (size_t)(zero - data) : size;
  static const char sample[] = "The <n>word's caf\xC3\xA9 12345  \xE4\xB8\xAD\n\n\xFF e\xCC\x81 <s>";
  void *image;
  size_t image_size;
  ie_error error = {0};
  ie_tokenizer *tokenizer;
  if (ie_tokenizer_read_json("fuzz", data, n, &image, &image_size, &error) != IE_OK) {
    if (image || !error.message[0]) abort();
    return 0;
  }
  if (ie_tokenizer_from_image(image, image_size, NULL, "fuzz", &tokenizer, &error) != IE_OK) {
    if (error.status != IE_UNSUPPORTED && error.status != IE_FORMAT)
      abort(); /* its own image is always good */
    return 0;
  }
  encode(tokenizer, sample, sizeof sample - 1);
  if (zero) encode(tokenizer, (const char *)zero + 1, size - n - 1);
  ie_tokenizer_free(tokenizer);
  return 0;
}
