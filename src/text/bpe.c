#include "text/bpe.h"

#include "base/size.h"

#include <stdlib.h>

enum { NO_SYMBOL = UINT32_MAX };

static ie_status bpe_reserve(ie_bpe *bpe, size_t n, ie_error *error) {
  if (n <= bpe->capacity) return IE_OK;
  size_t capacity = bpe->capacity * 2 > n ? bpe->capacity * 2 : n;
  /* a heap holds each first pair once and at most two new ones a merge */
  ie_bpe_symbol *symbols = realloc(bpe->symbols, capacity * sizeof *symbols);
  if (symbols) bpe->symbols = symbols;
  uint64_t *heap = symbols ? realloc(bpe->heap, 3 * capacity * sizeof *heap) : NULL;
  if (heap) bpe->heap = heap;
  uint32_t *ids = heap ? realloc(bpe->long_ids, capacity * sizeof *ids) : NULL;
  if (ids) bpe->long_ids = ids;
  uint32_t *sizes = ids ? realloc(bpe->long_sizes, capacity * sizeof *sizes) : NULL;
  if (!sizes) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a piece of %zu bytes", n);
  bpe->long_sizes = sizes;
  bpe->capacity = capacity;
  return IE_OK;
}

/* The first symbols: one a byte. A byte without token becomes the unknown token (one for a run of them, if the
 * tokenizer says so), or vanishes. */
static ie_status bpe_start(const ie_image *image, const char *piece, size_t size, uint32_t *ids,
                           uint32_t *sizes, size_t *count, ie_error *error) {
  const ie_image_header *header = image->header;
  size_t n = 0;
  bool unknown = false; /* the symbol before is the unknown token */
  for (size_t i = 0; i < size; i++) {
    int32_t id = header->byte_id[(uint8_t)piece[i]];
    if (id >= 0) {
      ids[n] = (uint32_t)id;
      sizes[n++] = 1;
      unknown = false;
    } else if (header->unk_id >= 0) {
      if (unknown && header->flags & IE_IMAGE_FUSE_UNK) {
        sizes[n - 1]++;
        continue;
      }
      ids[n] = (uint32_t)header->unk_id;
      sizes[n++] = 1;
      unknown = true;
    } else if (header->flags & IE_IMAGE_MISSING_BYTES_FAIL) {
      return ie_error_set(error, IE_FORMAT, "the tokenizer has no token for the byte 0x%02X",
                          (uint8_t)piece[i]);
    }
  }
  *count = n;
  return IE_OK;
}

static size_t bpe_merge_short(const ie_image *image, uint32_t *ids, uint32_t *sizes, size_t n) {
  uint32_t rank[IE_BPE_SHORT], result[IE_BPE_SHORT];
  for (size_t i = 0; i + 1 < n; i++) rank[i] = ie_image_pair_rank(image, ids[i], ids[i + 1], &result[i]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; i++)
      if (rank[i] < rank[best]) best = i;
    if (rank[best] == IE_PAIR_NONE) break;
    ids[best] = result[best];
    sizes[best] += sizes[best + 1];
    n--;
    for (size_t i = best + 1; i < n; i++) {
      ids[i] = ids[i + 1];
      sizes[i] = sizes[i + 1];
    }
    for (size_t i = best + 1; i + 1 < n; i++) { /* pair i is that of symbols i and i + 1 */
      rank[i] = rank[i + 1];
      result[i] = result[i + 1];
    }
    if (best + 1 < n) rank[best] = ie_image_pair_rank(image, ids[best], ids[best + 1], &result[best]);
    if (best > 0) rank[best - 1] = ie_image_pair_rank(image, ids[best - 1], ids[best], &result[best - 1]);
  }
  return n;
}

static void heap_push(uint64_t *heap, size_t *count, uint64_t key) {
  size_t i = (*count)++;
  while (i > 0 && heap[(i - 1) / 2] > key) {
    heap[i] = heap[(i - 1) / 2];
    i = (i - 1) / 2;
  }
  heap[i] = key;
}

static uint64_t heap_pop(uint64_t *heap, size_t *count) {
  uint64_t top = heap[0], last = heap[--*count];
  size_t i = 0, child;
  while ((child = 2 * i + 1) < *count) {
    if (child + 1 < *count && heap[child + 1] < heap[child]) child++;
    if (heap[child] >= last) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = last;
  return top;
}

/* Looks up the pair that starts at symbol i and queues it. */
static void bpe_queue(ie_bpe *bpe, size_t *heap_count, uint32_t i) {
  ie_bpe_symbol *s = &bpe->symbols[i];
  s->rank = IE_PAIR_NONE;
  if (s->next == NO_SYMBOL) return;
  s->rank = ie_image_pair_rank(bpe->image, s->id, bpe->symbols[s->next].id, &s->result);
  if (s->rank != IE_PAIR_NONE) heap_push(bpe->heap, heap_count, (uint64_t)s->rank << 32 | i);
}

static size_t bpe_merge_long(ie_bpe *bpe, size_t n) {
  size_t heap_count = 0;
  for (size_t i = 0; i < n; i++)
    bpe->symbols[i] = (ie_bpe_symbol){.id = bpe->long_ids[i],
                                      .size = bpe->long_sizes[i],
                                      .next = i + 1 < n ? (uint32_t)i + 1 : NO_SYMBOL,
                                      .previous = i > 0 ? (uint32_t)i - 1 : NO_SYMBOL};
  for (size_t i = 0; i < n; i++) bpe_queue(bpe, &heap_count, (uint32_t)i);
  while (heap_count > 0) {
    uint64_t key = heap_pop(bpe->heap, &heap_count);
    uint32_t i = (uint32_t)key;
    ie_bpe_symbol *s = &bpe->symbols[i];
    if (s->rank != (uint32_t)(key >> 32)) continue; /* this pair is gone */
    uint32_t right = s->next, after = bpe->symbols[right].next;
    s->id = s->result;
    s->size += bpe->symbols[right].size;
    s->next = after;
    bpe->symbols[right].rank = IE_PAIR_NONE;
    if (after != NO_SYMBOL) bpe->symbols[after].previous = i;
    bpe_queue(bpe, &heap_count, i);
    if (s->previous != NO_SYMBOL) bpe_queue(bpe, &heap_count, s->previous);
  }
  size_t count = 0;
  for (uint32_t i = 0; i != NO_SYMBOL; i = bpe->symbols[i].next) {
    bpe->long_ids[count] = bpe->symbols[i].id;
    bpe->long_sizes[count++] = bpe->symbols[i].size;
  }
  return count;
}

ie_status ie_bpe_run_long(ie_bpe *bpe, const char *piece, size_t size, ie_error *error) {
  bpe->count = 0;
  if (size > UINT32_MAX / 4)
    return ie_error_set(error, IE_LIMIT, "a piece of %zu bytes without a place to split, at most %u", size,
                        UINT32_MAX / 4);
  ie_status status = bpe_reserve(bpe, size, error);
  if (status != IE_OK) return status;
  bpe->ids = bpe->long_ids;
  bpe->sizes = bpe->long_sizes;
  status = bpe_start(bpe->image, piece, size, bpe->long_ids, bpe->long_sizes, &bpe->count, error);
  if (status == IE_OK && bpe->count > 1) bpe->count = bpe_merge_long(bpe, bpe->count);
  return status;
}

ie_status ie_bpe_run(ie_bpe *bpe, const char *piece, size_t size, ie_error *error) {
  if (size > IE_BPE_SHORT) return ie_bpe_run_long(bpe, piece, size, error);
  bpe->count = 0;
  bpe->ids = bpe->short_ids;
  bpe->sizes = bpe->short_sizes;
  ie_status status = bpe_start(bpe->image, piece, size, bpe->short_ids, bpe->short_sizes, &bpe->count, error);
  if (status == IE_OK) bpe->count = bpe_merge_short(bpe->image, bpe->short_ids, bpe->short_sizes, bpe->count);
  return status;
}

void ie_bpe_free(ie_bpe *bpe) {
  free(bpe->symbols);
  free(bpe->heap);
  free(bpe->long_ids);
  free(bpe->long_sizes);
  *bpe = (ie_bpe){0};
}
