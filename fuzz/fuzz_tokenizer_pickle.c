/* nanochat's tokenizer.pkl and IETOK1 packs: by their first bytes, as ie_tokenizer_open tells them apart.
 * Covers: src/text/tokenizer_pickle.c src/text/tokenizer_ietok.c
 * Length: 8192 */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char text[] = "The word's 12345 <|bos|>";
  void *image;
  size_t image_size;
  ie_error error = {0};
  ie_tokenizer *tokenizer;
  bool pack = size >= 6 && memcmp(data, "IETOK1", 6) == 0;
  const char *encoding = pack && size % 2 ? "o200k_harmony" : NULL;
  ie_status status = pack ? ie_tokenizer_read_ietok("fuzz", data, size, encoding, &image, &image_size, &error)
                          : ie_tokenizer_read_pickle("fuzz", data, size, &image, &image_size, &error);
  if (status != IE_OK) {
    if (image || !error.message[0]) abort();
    return 0;
  }
  if (ie_tokenizer_from_image(image, image_size, NULL, "fuzz", &tokenizer, &error) != IE_OK) {
    if (error.status != IE_UNSUPPORTED && error.status != IE_FORMAT) abort();
    return 0;
  }
  ie_ids ids = {0};
  ie_bytes back = {0};
  if (ie_tokenizer_encode(tokenizer, text, strlen(text), NULL, &ids, &error) == IE_OK &&
      ie_tokenizer_decode(tokenizer, ids.ids, ids.count, false, &back, &error) != IE_OK)
    abort();
  ie_ids_free(&ids);
  ie_bytes_free(&back);
  ie_tokenizer_free(tokenizer);
  return 0;
}
