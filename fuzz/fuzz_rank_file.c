/* A rank file, by each encoding. What is accepted gives each token's bytes back as that token.
 * Covers: src/text/tokenizer_rank.c
 * Length: 4096 */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const encodings[] = {"o200k_harmony", "qwen2.5", "qwen3", "nanochat",
                                          "llama3",        "none",    NULL};
  void *image;
  size_t image_size;
  ie_error error = {0};
  ie_tokenizer *tokenizer;
  const char *encoding = encodings[size % (sizeof encodings / sizeof encodings[0])];
  (void)ie_tokenizer_is_rank_file((const char *)data, size);
  (void)ie_tokenizer_count_ranks((const char *)data, size);
  if (ie_tokenizer_read_ranks("fuzz", data, size, encoding, &image, &image_size, &error) != IE_OK) {
    if (image || !error.message[0]) abort();
    return 0;
  }
  if (ie_tokenizer_from_image(image, image_size, NULL, "fuzz", &tokenizer, &error) != IE_OK) abort();
  ie_encode_options options = {.special_as_text = true};
  for (int32_t id = 0; id < ie_tokenizer_vocab(tokenizer) && id < 300; id++) {
    size_t n;
    bool special;
    ie_ids ids = {0};
    const char *bytes = ie_tokenizer_token(tokenizer, id, &n, &special);
    if (n == 0 || special) continue;
    /* a token that the pattern cuts, that is not UTF-8 or that NFC changes gives others; none fails but for a
     * byte that the file lacks */
    ie_status status = ie_tokenizer_encode(tokenizer, bytes, n, &options, &ids, &error);
    if (status != IE_OK && !strstr(error.message, "no token for the byte")) abort();
    ie_ids_free(&ids);
  }
  ie_tokenizer_free(tokenizer);
  return 0;
}
