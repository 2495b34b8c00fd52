#include "base/hash.h"
#include "text/tokenizer.h"

void ie_tokenizer_hash(const ie_tokenizer *tokenizer, uint8_t out[IE_SHA256_BYTES]) {
  ie_image_header header = *tokenizer->image.header;
  struct sha256_ctx ctx;
  header.source = (ie_image_source){0}; /* where a pack came from, and when */
  header.checksum = 0;
  sha256_init(&ctx);
  sha256_update(&ctx, sizeof header, (const uint8_t *)&header);
  sha256_update(&ctx, (size_t)header.size - sizeof header,
                (const uint8_t *)tokenizer->image.header + sizeof header);
  sha256_digest(&ctx, IE_SHA256_BYTES, out);
}
