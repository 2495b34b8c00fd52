#include "text/builder.h"

#include "base/size.h"
#include "text/normalize.h"

#include <stdlib.h>

/* A builder's own token flags, not stored: in the vocabulary; its bytes are an added token's. */
enum { BUILDER_LOOKUP = 128, BUILDER_NAMED = 64 };

void ie_builder_init(ie_builder *builder, const char *where) {
  *builder = (ie_builder){.where = where};
  memcpy(builder->header.magic, IE_IMAGE_MAGIC, sizeof builder->header.magic);
  builder->header.version = IE_IMAGE_VERSION;
  builder->header.endian = IE_IMAGE_ENDIAN;
  builder->header.unk_id = -1;
}

void ie_builder_free(ie_builder *builder) {
  free(builder->tokens);
  free(builder->vocab);
  ie_buf_free(&builder->blob);
  ie_buf_free(&builder->strings);
  ie_buf_free(&builder->pairs);
  ie_buf_free(&builder->added);
  ie_buf_free(&builder->stages);
  ie_buf_free(&builder->tmpl);
  *builder = (ie_builder){0};
}

static ie_status builder_no_memory(const ie_builder *builder, ie_error *error) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for the tokenizer", builder->where);
}

/* Makes tokens[id] exist. */
static ie_status builder_reach(ie_builder *builder, int64_t id, ie_error *error) {
  if (id < 0 || id >= IE_MAX_TOKENS)
    return ie_error_set(error, IE_FORMAT, "%s: token id %lld, expected 0 to %d", builder->where,
                        (long long)id, IE_MAX_TOKENS - 1);
  size_t need = (size_t)id + 1;
  if (need > builder->capacity) {
    size_t capacity = builder->capacity * 2;
    if (capacity < need) capacity = need;
    if (capacity < 1024) capacity = 1024;
    ie_builder_token *tokens = realloc(builder->tokens, capacity * sizeof *tokens);
    if (!tokens) return builder_no_memory(builder, error);
    memset(tokens + builder->capacity, 0, (capacity - builder->capacity) * sizeof *tokens);
    builder->tokens = tokens;
    builder->capacity = capacity;
  }
  if (need > builder->ids) builder->ids = need;
  return IE_OK;
}

ie_status ie_builder_token_add(ie_builder *builder, int64_t id, const char *bytes, size_t size, bool lookup,
                               ie_error *error) {
  ie_status status = builder_reach(builder, id, error);
  if (status != IE_OK) return status;
  ie_builder_token *token = &builder->tokens[id];
  if (token->flags)
    return ie_error_set(error, IE_FORMAT, "%s: two tokens have the id %lld", builder->where, (long long)id);
  if (size > UINT32_MAX - 1 - builder->blob.size)
    return ie_error_set(error, IE_FORMAT, "%s: the tokens hold more than 4 GB", builder->where);
  token->offset = (uint32_t)builder->blob.size;
  token->size = (uint32_t)size;
  token->flags = (uint8_t)(IE_TOKEN_PRESENT | (lookup ? BUILDER_LOOKUP : 0));
  if (!ie_buf_append(&builder->blob, bytes, size)) return builder_no_memory(builder, error);
  return IE_OK;
}

int32_t ie_builder_find(const ie_builder *builder, const char *bytes, size_t size) {
  uint64_t hash = ie_text_hash(bytes, size), slots = builder->vocab_slots;
  for (uint64_t i = ie_vocab_slot(hash, slots);; i = i + 1 == slots ? 0 : i + 1) {
    uint64_t slot = builder->vocab[i];
    if (slot == IE_VOCAB_EMPTY) return -1;
    if ((slot ^ hash) >> 32) continue;
    const ie_builder_token *token = &builder->tokens[(uint32_t)slot];
    if (token->size == size && (size == 0 || memcmp(builder->blob.data + token->offset, bytes, size) == 0))
      return (int32_t)(uint32_t)slot;
  }
}

ie_status ie_builder_index(ie_builder *builder, ie_error *error) {
  uint64_t slots = builder->ids * 2 + 8; /* half empty: short probes */
  builder->vocab = malloc(slots * sizeof *builder->vocab);
  if (!builder->vocab) return builder_no_memory(builder, error);
  memset(builder->vocab, 0xFF, slots * sizeof *builder->vocab);
  builder->vocab_slots = slots;
  for (int b = 0; b < 256; b++) builder->header.byte_id[b] = -1;
  for (size_t id = 0; id < builder->ids; id++) {
    const ie_builder_token *token = &builder->tokens[id];
    if (!(token->flags & BUILDER_LOOKUP)) continue;
    const char *bytes = builder->blob.data ? builder->blob.data + token->offset : "";
    int32_t other = ie_builder_find(builder, bytes, token->size);
    if (other >= 0)
      return ie_error_set(error, IE_FORMAT, "%s: ids %d and %zu are the same token", builder->where,
                          (int)other, id);
    if (token->size == 1) builder->header.byte_id[(uint8_t)bytes[0]] = (int32_t)id;
    uint64_t hash = ie_text_hash(bytes, token->size), i = ie_vocab_slot(hash, slots);
    while (builder->vocab[i] != IE_VOCAB_EMPTY) i = i + 1 == slots ? 0 : i + 1;
    builder->vocab[i] = (hash >> 32) << 32 | id;
  }
  return IE_OK;
}

ie_status ie_builder_pair_add(ie_builder *builder, uint32_t left, uint32_t right, uint32_t rank,
                              uint32_t result, ie_error *error) {
  ie_image_pair pair = {.left = left, .right = right, .rank = rank, .result = result};
  if (!ie_buf_append(&builder->pairs, &pair, sizeof pair)) return builder_no_memory(builder, error);
  return IE_OK;
}

ie_status ie_builder_pairs_from_ranks(ie_builder *builder, ie_error *error) {
  for (size_t id = 0; id < builder->ids; id++) {
    const ie_builder_token *token = &builder->tokens[id];
    if (!(token->flags & BUILDER_LOOKUP)) continue;
    const char *bytes = builder->blob.data + token->offset;
    for (uint32_t cut = 1; cut < token->size; cut++) {
      int32_t left = ie_builder_find(builder, bytes, cut);
      if (left < 0) continue;
      int32_t right = ie_builder_find(builder, bytes + cut, token->size - cut);
      if (right < 0) continue;
      ie_status status =
          ie_builder_pair_add(builder, (uint32_t)left, (uint32_t)right, (uint32_t)id, (uint32_t)id, error);
      if (status != IE_OK) return status;
    }
  }
  return IE_OK;
}

static bool builder_string(ie_builder *builder, const char *text, size_t size, ie_image_string *out) {
  if (size > UINT32_MAX - 1 - builder->strings.size) return false;
  *out = (ie_image_string){.offset = (uint32_t)builder->strings.size, .size = (uint32_t)size};
  return ie_buf_append(&builder->strings, text, size);
}

ie_status ie_builder_added_add(ie_builder *builder, int64_t id, const char *content, size_t size,
                               uint32_t flags, ie_error *error) {
  ie_status status = builder_reach(builder, id, error);
  if (status != IE_OK) return status;
  ie_image_added added = {.id = (int32_t)id, .flags = flags};
  if (!builder_string(builder, content, size, &added.content)) return builder_no_memory(builder, error);
  added.match = added.content;
  builder->tokens[id].flags |=
      (uint8_t)(IE_TOKEN_PRESENT | IE_TOKEN_ADDED | (flags & IE_ADDED_SPECIAL ? IE_TOKEN_SPECIAL : 0));
  if (!ie_buf_append(&builder->added, &added, sizeof added)) return builder_no_memory(builder, error);
  return IE_OK;
}

ie_status ie_builder_stage_add(ie_builder *builder, ie_image_stage stage, const char *text, size_t size,
                               ie_error *error) {
  if (builder->header.stages == IE_MAX_STAGES)
    return ie_error_set(error, IE_UNSUPPORTED, "%s: more than %d pre-tokenizers", builder->where,
                        IE_MAX_STAGES);
  if (!builder_string(builder, text, size, &stage.text) ||
      !ie_buf_append(&builder->stages, &stage, sizeof stage))
    return builder_no_memory(builder, error);
  builder->header.stages++;
  return IE_OK;
}

ie_status ie_builder_normalizer_add(ie_builder *builder, ie_normalizer normalizer, ie_error *error) {
  if (builder->normalizers == IE_MAX_NORMALIZERS - 1)
    return ie_error_set(error, IE_UNSUPPORTED, "%s: more than %d normalizers", builder->where,
                        IE_MAX_NORMALIZERS - 1);
  builder->header.normalizers[builder->normalizers++] = (uint8_t)normalizer;
  return IE_OK;
}

ie_status ie_builder_post_add(ie_builder *builder, ie_post_kind post, ie_error *error) {
  if (builder->posts == IE_MAX_POST - 1)
    return ie_error_set(error, IE_UNSUPPORTED, "%s: more than %d post-processors", builder->where,
                        IE_MAX_POST - 1);
  builder->header.post[builder->posts++] = (uint8_t)post;
  return IE_OK;
}

/* Gives the added tokens that match normalised text their normalised form. */
static ie_status builder_normalize_added(ie_builder *builder, ie_error *error) {
  ie_image_added *added = (ie_image_added *)(void *)builder->added.data;
  size_t count = builder->added.size / sizeof *added;
  if (!builder->normalizers) return IE_OK;
  ie_buf form = {0};
  ie_status status = IE_OK;
  for (size_t i = 0; i < count && status == IE_OK; i++) {
    if (!(added[i].flags & IE_ADDED_NORMALIZED)) continue;
    ie_normal_text text = {.bytes = builder->strings.data + added[i].content.offset,
                           .size = added[i].content.size};
    ie_buf_clear(&form);
    status = ie_normalize(builder->header.normalizers, text, &form, NULL, error);
    if (status == IE_OK && !builder_string(builder, form.data ? form.data : "", form.size, &added[i].match))
      status = builder_no_memory(builder, error);
  }
  ie_buf_free(&form);
  return status;
}

static int builder_added_order(const void *a, const void *b, void *strings) {
  const ie_image_added *x = a, *y = b;
  uint32_t xn = x->flags & IE_ADDED_NORMALIZED, yn = y->flags & IE_ADDED_NORMALIZED;
  if (xn != yn) return xn ? 1 : -1;
  uint32_t n = x->match.size < y->match.size ? x->match.size : y->match.size;
  int order = memcmp((const char *)strings + x->match.offset, (const char *)strings + y->match.offset, n);
  return order ? order : (int)(x->match.size > y->match.size) - (int)(x->match.size < y->match.size);
}

/* Sorts the added tokens as an image has them, and stores the bytes of those that the vocabulary lacks. */
static ie_status builder_place_added(ie_builder *builder, ie_error *error) {
  ie_status status = builder_normalize_added(builder, error);
  if (status != IE_OK) return status;
  ie_image_added *added = (ie_image_added *)(void *)builder->added.data;
  size_t count = builder->added.size / sizeof *added;
  if (count) qsort_r(added, count, sizeof *added, builder_added_order, builder->strings.data);
  builder->header.added = (uint32_t)count;
  for (size_t i = 0; i < count; i++) {
    if (!(added[i].flags & IE_ADDED_NORMALIZED)) builder->header.raw_added++;
    if (added[i].match.size == 0)
      return ie_error_set(error, IE_FORMAT, "%s: added token %d is empty", builder->where, added[i].id);
    ie_builder_token *token = &builder->tokens[added[i].id];
    const char *match = builder->strings.data + added[i].match.offset;
    if (token->flags & BUILDER_LOOKUP || token->size) {
      bool same = token->size == added[i].match.size &&
                  memcmp(builder->blob.data + token->offset, match, token->size) == 0;
      if (!same && !(token->flags & BUILDER_NAMED)) token->flags |= IE_TOKEN_RENAMED;
      continue;
    }
    token->flags |= BUILDER_NAMED;
    token->offset = (uint32_t)builder->blob.size;
    token->size = added[i].match.size;
    if (builder->blob.size > UINT32_MAX - 1 - token->size ||
        !ie_buf_append(&builder->blob, match, token->size))
      return builder_no_memory(builder, error);
  }
  return IE_OK;
}

/* Fills the slots of the pair table; of equal pairs the last one stays. */
static void builder_place_pairs(const ie_builder *builder, ie_image_pair *slots, uint64_t count) {
  memset(slots, 0xFF, count * sizeof *slots);
  const ie_image_pair *pairs = (const ie_image_pair *)(const void *)builder->pairs.data;
  for (size_t k = 0; k < builder->pairs.size / sizeof *pairs; k++) {
    uint64_t i = ie_pair_slot(pairs[k].left, pairs[k].right, count);
    while (slots[i].left != IE_PAIR_EMPTY &&
           (slots[i].left != pairs[k].left || slots[i].right != pairs[k].right))
      i = i + 1 == count ? 0 : i + 1;
    slots[i] = pairs[k];
  }
}

/* Tokens in id order: offsets, flags, bytes. */
static void builder_place_tokens(const ie_builder *builder, uint32_t *offsets, uint8_t *flags, char *bytes) {
  uint32_t at = 0;
  for (size_t id = 0; id < builder->ids; id++) {
    const ie_builder_token *token = &builder->tokens[id];
    offsets[id] = at;
    flags[id] = token->flags & (uint8_t) ~(BUILDER_LOOKUP | BUILDER_NAMED);
    if (token->size) memcpy(bytes + at, builder->blob.data + token->offset, token->size);
    at += token->size;
  }
  offsets[builder->ids] = at;
}

static void builder_copy_part(char *image, const ie_image_header *header, ie_image_part part,
                              const ie_buf *from) {
  if (from->size) memcpy(image + header->parts[part].offset, from->data, from->size);
}

ie_status ie_builder_finish(ie_builder *builder, void **out, size_t *size, ie_error *error) {
  *out = NULL;
  *size = 0;
  ie_status status = builder_place_added(builder, error);
  if (status != IE_OK) return status;
  ie_image_header *header = &builder->header;
  size_t blob = 0;
  for (size_t id = 0; id < builder->ids; id++) blob += builder->tokens[id].size;
  size_t pair_slots = builder->pairs.size / sizeof(ie_image_pair);
  pair_slots += pair_slots / 2 + 8; /* two thirds full */
  const size_t sizes[IE_PART_COUNT] = {
      [IE_PART_TOKEN_OFFSETS] = (builder->ids + 1) * sizeof(uint32_t),
      [IE_PART_TOKEN_FLAGS] = builder->ids,
      [IE_PART_TOKEN_BYTES] = blob,
      [IE_PART_VOCAB] = (size_t)builder->vocab_slots * sizeof(uint64_t),
      [IE_PART_PAIRS] = pair_slots * sizeof(ie_image_pair),
      [IE_PART_ADDED] = builder->added.size,
      [IE_PART_STAGES] = builder->stages.size,
      [IE_PART_TEMPLATE] = builder->tmpl.size,
      [IE_PART_STRINGS] = builder->strings.size,
  };
  size_t total = ie_size_align(sizeof *header, 64);
  for (int i = 0; i < IE_PART_COUNT; i++) {
    header->parts[i].offset = total;
    header->parts[i].size = sizes[i];
    total = ie_size_align(total + sizes[i], 64);
  }
  header->ids = (uint32_t)builder->ids;
  header->size = total;
  char *image = aligned_alloc(64, total);
  if (!image) return builder_no_memory(builder, error);
  memset(image, 0, total);
  builder_place_tokens(builder, (uint32_t *)(void *)(image + header->parts[IE_PART_TOKEN_OFFSETS].offset),
                       (uint8_t *)image + header->parts[IE_PART_TOKEN_FLAGS].offset,
                       image + header->parts[IE_PART_TOKEN_BYTES].offset);
  memcpy(image + header->parts[IE_PART_VOCAB].offset, builder->vocab, sizes[IE_PART_VOCAB]);
  builder_place_pairs(builder, (ie_image_pair *)(void *)(image + header->parts[IE_PART_PAIRS].offset),
                      pair_slots);
  builder_copy_part(image, header, IE_PART_ADDED, &builder->added);
  builder_copy_part(image, header, IE_PART_STAGES, &builder->stages);
  builder_copy_part(image, header, IE_PART_TEMPLATE, &builder->tmpl);
  builder_copy_part(image, header, IE_PART_STRINGS, &builder->strings);
  memcpy(image, header, sizeof *header);
  *out = image;
  *size = total;
  return IE_OK;
}
