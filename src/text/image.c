#include "text/image.h"

#include "base/size.h"

uint64_t ie_image_sum(const void *bytes, size_t size) {
  /* Four independent chains over 32-byte steps, so that the sum runs at memory speed. */
  const unsigned char *p = bytes;
  const size_t skip = offsetof(ie_image_header, checksum);
  uint64_t lane[4] = {1, 2, 3, 4};
  for (size_t i = 0; i < size; i += 32) {
    uint64_t w[4] = {0};
    memcpy(w, p + i, size - i < 32 ? size - i : 32);
    if (skip >= i && skip < i + 32) w[(skip - i) / 8] = 0;
    for (int k = 0; k < 4; k++) lane[k] = (lane[k] ^ w[k]) * 0x9E3779B97F4A7C15u + (lane[k] >> 29);
  }
  uint64_t sum = size;
  for (int k = 0; k < 4; k++) sum = ie_text_mix(sum ^ lane[k], 0xD6E8FEB86659FD93u) + lane[k];
  return sum;
}

static ie_status image_bad(const char *where, const char *what, ie_error *error) {
  return ie_error_set(error, IE_FORMAT, "%s: damaged tokenizer pack: %s", where, what);
}

/* Finds part `part`, which must hold `count` elements of `size` bytes (count = SIZE_MAX: any number). */
static const void *image_part(const ie_image_header *header, ie_image_part part, size_t count, size_t element,
                              uint64_t *found) {
  uint64_t offset = header->parts[part].offset, size = header->parts[part].size;
  size_t want;
  if (offset % 8 || offset < sizeof *header || offset > header->size || size > header->size - offset)
    return NULL;
  if (size % element) return NULL;
  if (count != SIZE_MAX && (!ie_size_mul(count, element, &want) || want != size)) return NULL;
  if (found) *found = size / element;
  return (const char *)header + offset;
}

static bool string_inside(ie_image_string s, uint64_t size) {
  return s.offset <= size && s.size <= size - s.offset;
}

static const char *image_check_tables(const ie_image *image, uint64_t blob) {
  uint32_t ids = image->header->ids;
  if (image->token_offset[0] != 0 || image->token_offset[ids] != blob) return "token offsets";
  for (uint32_t i = 0; i < ids; i++)
    if (image->token_offset[i] > image->token_offset[i + 1]) return "token offsets";
  bool empty = false;
  for (uint64_t i = 0; i < image->vocab_slots; i++) {
    if (image->vocab[i] == IE_VOCAB_EMPTY)
      empty = true;
    else if ((uint32_t)image->vocab[i] >= ids)
      return "vocabulary slots";
  }
  if (!empty || image->vocab_slots > UINT32_MAX) return "vocabulary slots";
  empty = false;
  for (uint64_t i = 0; i < image->pair_slots; i++) {
    const ie_image_pair *pair = &image->pairs[i];
    if (pair->left == IE_PAIR_EMPTY)
      empty = true;
    else if (pair->result >= ids || pair->rank == IE_PAIR_NONE)
      return "pair slots";
  }
  if (!empty || image->pair_slots > UINT32_MAX) return "pair slots";
  for (int b = 0; b < 256; b++)
    if (image->header->byte_id[b] < -1 || image->header->byte_id[b] >= (int64_t)ids) return "byte table";
  if (image->header->unk_id < -1 || image->header->unk_id >= (int64_t)ids) return "unknown token";
  return NULL;
}

/* Negative when a sorts before b. */
static int added_compare(const ie_image *image, const ie_image_added *a, const ie_image_added *b) {
  uint32_t n = a->match.size < b->match.size ? a->match.size : b->match.size;
  int order = memcmp(image->strings + a->match.offset, image->strings + b->match.offset, n);
  return order ? order : (int)(a->match.size > b->match.size) - (int)(a->match.size < b->match.size);
}

static const char *image_check_added(const ie_image *image, uint64_t strings) {
  const ie_image_header *h = image->header;
  if (h->raw_added > h->added) return "added tokens";
  for (uint32_t i = 0; i < h->added; i++) {
    const ie_image_added *a = &image->added[i];
    if (!string_inside(a->content, strings) || !string_inside(a->match, strings) || a->match.size == 0 ||
        a->id < 0 || a->id >= (int64_t)h->ids)
      return "added tokens";
    if (i > 0 && i != h->raw_added && added_compare(image, a - 1, a) > 0) return "order of the added tokens";
  }
  for (uint32_t i = 0; i < h->stages; i++) {
    const ie_image_stage *s = &image->stages[i];
    if (!string_inside(s->text, strings) || s->kind < IE_STAGE_REGEX || s->kind > IE_STAGE_PREFIX ||
        s->behavior > IE_SPLIT_CONTIGUOUS || (s->kind == IE_STAGE_LITERAL && s->text.size == 0))
      return "pre-tokenizer stages";
  }
  for (uint32_t i = 0; i < h->prefix + h->suffix; i++)
    if (image->template_ids[i] < 0) return "template";
  for (int i = 0; i < IE_MAX_NORMALIZERS; i++)
    if (h->normalizers[i] > IE_NORM_NFKD) return "normalizers";
  for (int i = 0; i < IE_MAX_POST; i++)
    if (h->post[i] > IE_POST_TEMPLATE) return "post-processors";
  return NULL;
}

ie_status ie_image_attach(const void *bytes, size_t size, bool check_sum, const char *where, ie_image *out,
                          ie_error *error) {
  *out = (ie_image){0};
  const ie_image_header *h = bytes;
  if (size < sizeof *h || memcmp(h->magic, IE_IMAGE_MAGIC, sizeof h->magic) != 0)
    return image_bad(where, "no header", error);
  if (h->version != IE_IMAGE_VERSION || h->endian != IE_IMAGE_ENDIAN)
    return ie_error_set(error, IE_UNSUPPORTED, "%s: tokenizer pack of version %u, expected %d", where,
                        h->version, IE_IMAGE_VERSION);
  if (h->size != size) return image_bad(where, "its size is not the one it was written with", error);
  if (check_sum && ie_image_sum(bytes, size) != h->checksum) return image_bad(where, "checksum", error);
  if (h->ids > IE_MAX_TOKENS || h->stages > IE_MAX_STAGES || h->prefix > IE_MAX_TOKENS ||
      h->suffix > IE_MAX_TOKENS)
    return image_bad(where, "counts", error);
  ie_image image = {.header = h};
  uint64_t blob = 0, strings = 0;
  image.token_offset = image_part(h, IE_PART_TOKEN_OFFSETS, (size_t)h->ids + 1, sizeof(uint32_t), NULL);
  image.token_flags = image_part(h, IE_PART_TOKEN_FLAGS, h->ids, 1, NULL);
  image.token_bytes = image_part(h, IE_PART_TOKEN_BYTES, SIZE_MAX, 1, &blob);
  image.vocab = image_part(h, IE_PART_VOCAB, SIZE_MAX, sizeof(uint64_t), &image.vocab_slots);
  image.pairs = image_part(h, IE_PART_PAIRS, SIZE_MAX, sizeof(ie_image_pair), &image.pair_slots);
  image.added = image_part(h, IE_PART_ADDED, h->added, sizeof(ie_image_added), NULL);
  image.stages = image_part(h, IE_PART_STAGES, h->stages, sizeof(ie_image_stage), NULL);
  image.template_ids = image_part(h, IE_PART_TEMPLATE, (size_t)h->prefix + h->suffix, sizeof(int32_t), NULL);
  image.strings = image_part(h, IE_PART_STRINGS, SIZE_MAX, 1, &strings);
  if (!image.token_offset || !image.token_flags || !image.token_bytes || !image.vocab || !image.pairs ||
      !image.added || !image.stages || !image.template_ids || !image.strings)
    return image_bad(where, "a part lies outside of it", error);
  const char *what = image_check_tables(&image, blob);
  if (!what) what = image_check_added(&image, strings);
  if (what) return image_bad(where, what, error);
  *out = image;
  return IE_OK;
}
