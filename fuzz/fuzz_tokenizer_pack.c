/* An own pack with a right checksum (it is set here, so that what is behind it is reached). What is accepted encodes
 * and decodes without reading beyond it.
 * Covers: src/text/image.c
 * Length: 16384 */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char text[] = "The <n> word's caf\xC3\xA9 12345\n\n\xFF <s>";
  ie_error error = {0};
  ie_tokenizer *tokenizer;
  char *bytes = aligned_alloc(64, (size + 64) & ~(size_t)63);
  if (!bytes) abort();
  if (size) memcpy(bytes, data, size);
  if (size >= sizeof(ie_image_header)) {
    uint64_t sum = ie_image_sum(bytes, size);
    memcpy(bytes + offsetof(ie_image_header, checksum), &sum, sizeof sum);
  }
  ie_image image;
  ie_status status = ie_image_attach(bytes, size, true, "fuzz", &image, &error);
  if (status != IE_OK) {
    if (!error.message[0]) abort();
    free(bytes);
    return 0;
  }
  if (ie_tokenizer_from_image(bytes, size, NULL, "fuzz", &tokenizer, &error) != IE_OK)
    return 0; /* its pattern */
  ie_ids ids = {0};
  ie_span *spans = NULL;
  ie_bytes back = {0};
  ie_encode_options options = {.add_special = true};
  (void)ie_tokenizer_encode_spans(tokenizer, text, strlen(text), &options, &ids, &spans, &error);
  if (ie_tokenizer_decode(tokenizer, ids.ids, ids.count, true, &back, &error) != IE_OK) abort();
  for (int32_t id = -1; id <= ie_tokenizer_vocab(tokenizer) && id < 1000; id++) {
    size_t n;
    const char *token = ie_tokenizer_token(tokenizer, id, &n, NULL);
    for (size_t i = 0; i < n; i++) ie_bytes_append(&back, token + i, 1, NULL);
  }
  (void)ie_tokenizer_special_id(tokenizer, "<s>");
  free(spans);
  ie_ids_free(&ids);
  ie_bytes_free(&back);
  ie_tokenizer_free(tokenizer);
  return 0;
}
