/* The tables of a tokenizer in one flat, position-independent block: the same bytes in memory, in a cache file
 * and in a mapping. Every source (tokenizer.json, rank file, ...) is turned into an image by text/builder.h.
 *
 * Owner: an ie_image borrows its bytes; whoever holds them (a buffer or a mapping) frees them after it.
 * ie_image_attach checks every offset, id and table, so that the lookups below need no checks. */
#ifndef CLOCHER_TEXT_IMAGE_H
#define CLOCHER_TEXT_IMAGE_H

#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
  /* Raised whenever the layout or the meaning of a field changes; fuzz/corpus/tokenizer_pack is then made anew. */
  IE_IMAGE_VERSION = 1,
  IE_IMAGE_ENDIAN = 0x01020304,
  IE_MAX_TOKENS = 1 << 24, /* ids are below this */
  IE_MAX_NORMALIZERS = 8,
  IE_MAX_STAGES = 16,
  IE_MAX_POST = 8
};
#define IE_IMAGE_MAGIC "CLTOKPK1"

enum {
  IE_TOKEN_PRESENT = 1,
  IE_TOKEN_SPECIAL = 2,
  IE_TOKEN_ADDED = 4,
  IE_TOKEN_RENAMED = 8 /* decodes to an added token's match, not to the vocabulary's bytes */
};

enum {
  IE_IMAGE_IGNORE_MERGES = 1,
  IE_IMAGE_FUSE_UNK = 2,
  IE_IMAGE_MISSING_BYTES_FAIL = 4, /* a byte without token is an error, as in tiktoken; else it vanishes */
  IE_IMAGE_DECODE_ONLY = 8         /* no pattern is known: encoding is refused */
};

enum {
  IE_ADDED_SPECIAL = 1,
  IE_ADDED_LSTRIP = 2,
  IE_ADDED_RSTRIP = 4,
  IE_ADDED_SINGLE_WORD = 8,
  IE_ADDED_NORMALIZED = 16
};

typedef enum ie_normalizer { IE_NORM_NFC = 1, IE_NORM_NFD, IE_NORM_NFKC, IE_NORM_NFKD } ie_normalizer;

typedef enum ie_stage_kind {
  IE_STAGE_REGEX = 1, /* text = pattern */
  IE_STAGE_LITERAL,   /* text = the string to split at */
  IE_STAGE_DIGITS,    /* one number character each, or runs when behavior is contiguous */
  IE_STAGE_PREFIX     /* a space before a piece that does not start with one */
} ie_stage_kind;

typedef enum ie_split_behavior {
  IE_SPLIT_REMOVED,
  IE_SPLIT_ISOLATED,
  IE_SPLIT_MERGED_WITH_PREVIOUS,
  IE_SPLIT_MERGED_WITH_NEXT,
  IE_SPLIT_CONTIGUOUS
} ie_split_behavior;

typedef enum ie_post_kind { IE_POST_TRIM = 1, IE_POST_TRIM_PREFIX, IE_POST_TEMPLATE } ie_post_kind;

typedef struct ie_image_string {
  uint32_t offset, size; /* in IE_PART_STRINGS */
} ie_image_string;

typedef struct ie_image_stage {
  uint32_t kind, behavior, invert;
  uint32_t rust; /* the pattern is written for the Rust crates (tiktoken), else for Oniguruma */
  ie_image_string text;
} ie_image_stage;

typedef struct ie_image_added {
  ie_image_string content; /* the token's name */
  ie_image_string match;   /* what is searched for and decoded to: content, or its normalised form */
  int32_t id;
  uint32_t flags;
} ie_image_added;

typedef struct ie_image_pair {
  uint32_t left, right; /* left = IE_PAIR_EMPTY: an empty slot */
  uint32_t rank, result;
} ie_image_pair;
#define IE_PAIR_EMPTY  0xFFFFFFFFu
#define IE_PAIR_NONE   0xFFFFFFFFu /* the rank of a pair that does not merge */
#define IE_VOCAB_EMPTY 0xFFFFFFFFFFFFFFFFu

typedef enum ie_image_part {
  IE_PART_TOKEN_OFFSETS, /* u32 (ids + 1) into IE_PART_TOKEN_BYTES */
  IE_PART_TOKEN_FLAGS,   /* u8 (ids) */
  IE_PART_TOKEN_BYTES,
  IE_PART_VOCAB, /* u64 slots: upper half of the hash << 32 | id */
  IE_PART_PAIRS, /* ie_image_pair slots */
  IE_PART_ADDED, /* ie_image_added: raw_added that match the raw text, then the normalized ones; each sorted by match */
  IE_PART_STAGES,   /* ie_image_stage */
  IE_PART_TEMPLATE, /* i32: prefix ids, then suffix ids */
  IE_PART_STRINGS,
  IE_PART_COUNT
} ie_image_part;

/* What a pack in the cache was made from. */
typedef struct ie_image_source {
  uint64_t size, inode;
  int64_t mtime_ns, ctime_ns, packed_ns;
  uint8_t path_sha256[32], sha256[32];
} ie_image_source;

typedef struct ie_image_header {
  char magic[8];
  uint32_t version, endian;
  uint64_t size;     /* of the whole image */
  uint64_t checksum; /* ie_image_sum of everything but this field */
  ie_image_source source;
  uint32_t kind; /* ie_tokenizer_source */
  uint32_t flags;
  uint32_t ids; /* highest id + 1 */
  uint32_t added, raw_added;
  uint32_t stages;
  uint32_t prefix, suffix; /* ids in the template */
  int32_t unk_id;          /* -1: none */
  uint32_t reserved;
  uint8_t normalizers[IE_MAX_NORMALIZERS]; /* ie_normalizer, 0 ends */
  uint8_t post[IE_MAX_POST];               /* ie_post_kind, 0 ends */
  int32_t byte_id[256];                    /* the token of each byte, or -1 */
  struct {
    uint64_t offset, size;
  } parts[IE_PART_COUNT];
} ie_image_header;

/* Pointers into an image. */
typedef struct ie_image {
  const ie_image_header *header;
  const uint32_t *token_offset; /* (ids + 1) */
  const uint8_t *token_flags;   /* (ids) */
  const char *token_bytes;
  const uint64_t *vocab; /* (vocab_slots) */
  uint64_t vocab_slots;
  const ie_image_pair *pairs; /* (pair_slots) */
  uint64_t pair_slots;
  const ie_image_added *added; /* (header->added) */
  const ie_image_stage *stages;
  const int32_t *template_ids; /* (prefix + suffix) */
  const char *strings;
} ie_image;

/* Checks the image and points *out into it. bytes are aligned to 8. IE_FORMAT says what is wrong; where names
 * the file. check_sum: also compare the checksum (needed for bytes from a file). */
ie_status ie_image_attach(const void *bytes, size_t size, bool check_sum, const char *where, ie_image *out,
                          ie_error *error);
/* Computes the checksum of a finished image (its checksum field is left out of the sum). */
uint64_t ie_image_sum(const void *bytes, size_t size);

__extension__ typedef unsigned __int128 ie_uint128;

static inline uint64_t ie_text_mix(uint64_t a, uint64_t b) {
  ie_uint128 product = (ie_uint128)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* A hash of a few bytes, by folding 64 x 64 -> 128 bit products. */
static inline uint64_t ie_text_hash(const char *p, size_t n) {
  uint64_t h = 0x9E3779B97F4A7C15u ^ n, w;
  for (; n > 8; p += 8, n -= 8) {
    memcpy(&w, p, 8);
    h = ie_text_mix(h ^ w, 0xD6E8FEB86659FD93u);
  }
  w = 0;
  if (n >= 4) {
    uint32_t low, high;
    memcpy(&low, p, 4);
    memcpy(&high, p + n - 4, 4);
    w = (uint64_t)high << 32 | low;
  } else if (n) {
    w = (uint64_t)(uint8_t)p[0] | (uint64_t)(uint8_t)p[n / 2] << 8 | (uint64_t)(uint8_t)p[n - 1] << 16;
  }
  return ie_text_mix(h ^ w, 0xA0761D6478BD642Fu);
}

static inline uint64_t ie_vocab_slot(uint64_t hash, uint64_t slots) {
  return ((hash & 0xFFFFFFFFu) * slots) >> 32;
}

static inline uint64_t ie_pair_slot(uint32_t left, uint32_t right, uint64_t slots) {
  uint64_t h = ie_text_mix(((uint64_t)left << 32 | right) ^ 0x9E3779B97F4A7C15u, 0xD6E8FEB86659FD93u);
  return ((h & 0xFFFFFFFFu) * slots) >> 32;
}

/* The vocabulary entry that is exactly these bytes, or -1. hash = ie_text_hash of them. */
static inline int32_t ie_image_find(const ie_image *image, const char *p, size_t n, uint64_t hash) {
  uint64_t slots = image->vocab_slots;
  for (uint64_t i = ie_vocab_slot(hash, slots);; i = i + 1 == slots ? 0 : i + 1) {
    uint64_t slot = image->vocab[i];
    if (slot == IE_VOCAB_EMPTY) return -1;
    if ((slot ^ hash) >> 32) continue;
    uint32_t id = (uint32_t)slot;
    uint32_t start = image->token_offset[id];
    if (image->token_offset[id + 1] - start == n && memcmp(image->token_bytes + start, p, n) == 0)
      return (int32_t)id;
  }
}

/* The rank of a pair (lower merges first) and what it becomes; IE_PAIR_NONE when it does not merge. */
static inline uint32_t ie_image_pair_rank(const ie_image *image, uint32_t left, uint32_t right,
                                          uint32_t *result) {
  uint64_t slots = image->pair_slots;
  for (uint64_t i = ie_pair_slot(left, right, slots);; i = i + 1 == slots ? 0 : i + 1) {
    const ie_image_pair *pair = &image->pairs[i];
    if (pair->left == left && pair->right == right) {
      *result = pair->result;
      return pair->rank;
    }
    if (pair->left == IE_PAIR_EMPTY) return IE_PAIR_NONE;
  }
}

#endif
