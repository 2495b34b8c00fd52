/* SHA-256 (nettle's, which uses the processor's SHA instructions where it has them), and a short hash of names. */
#ifndef CLOCHER_BASE_HASH_H
#define CLOCHER_BASE_HASH_H

#include <nettle/sha2.h>
#include <stddef.h>
#include <stdint.h>

enum { IE_SHA256_BYTES = 32 };

static inline void ie_sha256(const void *bytes, size_t size, uint8_t out[IE_SHA256_BYTES]) {
  struct sha256_ctx ctx;
  sha256_init(&ctx);
  sha256_update(&ctx, size, bytes);
  sha256_digest(&ctx, IE_SHA256_BYTES, out);
}

/* 64 lower-case hexadecimal digits and a NUL. */
static inline void ie_sha256_hex(const uint8_t digest[IE_SHA256_BYTES], char out[2 * IE_SHA256_BYTES + 1]) {
  static const char digits[] = "0123456789abcdef";
  for (int i = 0; i < IE_SHA256_BYTES; i++) {
    out[2 * i] = digits[digest[i] >> 4];
    out[2 * i + 1] = digits[digest[i] & 15];
  }
  out[2 * IE_SHA256_BYTES] = '\0';
}

/* FNV-1a: streams of random numbers (base/rng.h) that depend on a name alone. */
static inline uint64_t ie_hash_name(const char *name) {
  uint64_t h = 0xCBF29CE484222325u;
  for (; *name; name++) h = (h ^ (uint8_t)*name) * 0x100000001B3u;
  return h;
}

#endif
