#include "engine/resident.h"

#include "base/file.h"
#include "base/pages.h"
#include "base/size.h"
#include "models/decoder.h"

#include <stdlib.h>

memory_span ie_resident_outer(const void *data, size_t bytes) {
  size_t page = ie_page_bytes();
  uintptr_t begin = (uintptr_t)data / page * page, end = ((uintptr_t)data + bytes + page - 1) / page * page;
  return (memory_span){(const uint8_t *)begin, end - begin};
}

memory_span ie_resident_inner(const void *data, size_t bytes) {
  size_t page = ie_page_bytes();
  uintptr_t begin = ((uintptr_t)data + page - 1) / page * page, end = ((uintptr_t)data + bytes) / page * page;
  return (memory_span){(const uint8_t *)begin, end > begin ? end - begin : 0};
}

typedef struct loading {
  const ie_model *model;
  ie_reader *reader;
  memory_span *span; /* (count) of whole pages */
  size_t count;
  ie_status status;
  ie_error *error;
} loading;

static void load_finish(loading *l, int timeout_ms) {
  ie_read_done done;
  while (ie_reader_finish(l->reader, timeout_ms, &done)) {
    if (done.failed && l->status == IE_OK) l->status = ie_reader_error(l->reader, &done, l->error);
    timeout_ms = 0;
  }
}

static void span_load(loading *l, memory_span span) {
  size_t file;
  uint64_t offset;
  if (l->status != IE_OK || span.bytes == 0) return;
  if (!ie_checkpoint_locate(l->model->checkpoint, span.data, &file, &offset)) {
    l->status = ie_error_set(l->error, IE_INTERNAL, "a weight is not mapped");
    return;
  }
  l->status = ie_map_replace(span.data, span.bytes, /*huge=*/true, l->error);
  if (l->status != IE_OK) return;
  ie_read read = {
      .file = (int)file, .offset = offset, .bytes = span.bytes, .to = (void *)(uintptr_t)span.data};
  while (!ie_reader_has_room(l->reader)) load_finish(l, 1000);
  ie_reader_start(l->reader, &read);
}

static bool is_expert(const ie_model *model, const void *data) {
  for (int64_t i = 0; i < model->info.layers; i++) {
    const ie_weight *w[2] = {model->moe[i].gate_up, model->moe[i].down};
    for (int k = 0; w[0] && k < IE_PART_COUNT; k++)
      if (w[k / 2]->part[k % 2] == data) return true;
  }
  return false;
}

static void span_add(loading *l, const uint8_t *begin, const uint8_t *end) {
  if (end > begin) l->span[l->count++] = (memory_span){begin, (size_t)(end - begin)};
}

/* All of a tensor's pages; of the embedding that is streamed only those at its edges. */
static void tensor_add(loading *l, const ie_tensor_info *t, bool edges) {
  memory_span outer = ie_resident_outer(t->data, t->bytes), inner = ie_resident_inner(t->data, t->bytes);
  const uint8_t *end = outer.data + outer.bytes;
  edges = edges && inner.bytes > 0;
  span_add(l, outer.data, edges ? inner.data : end);
  if (edges) span_add(l, inner.data + inner.bytes, end);
}

static int span_compare(const void *a, const void *b) {
  uintptr_t x = (uintptr_t)((const memory_span *)a)->data, y = (uintptr_t)((const memory_span *)b)->data;
  return (x > y) - (x < y);
}

/* Neighbours share pages: a page is read once, by one thread. */
static void spans_merge(loading *l) {
  size_t kept = 0;
  qsort(l->span, l->count, sizeof *l->span, span_compare);
  for (size_t i = 0; i < l->count; i++) {
    memory_span *last = kept > 0 ? &l->span[kept - 1] : NULL, next = l->span[i];
    const uint8_t *end = next.data + next.bytes;
    if (!last || next.data >= last->data + last->bytes)
      l->span[kept++] = next;
    else if (end > last->data + last->bytes)
      last->bytes = (size_t)(end - last->data);
  }
  l->count = kept;
}

ie_status ie_resident_load(const ie_model *model, const ie_placement *placement, ie_reader *reader,
                           ie_error *error) {
  loading l = {.model = model, .reader = reader, .error = error};
  const ie_decoder *d = model->net;
  size_t tensors = ie_checkpoint_count(model->checkpoint);
  l.span = calloc(2 * tensors + 1, sizeof *l.span);
  if (!l.span)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the places of %zu tensors", tensors);
  for (size_t i = 0; i < tensors; i++) {
    const ie_tensor_info *t = ie_checkpoint_at(model->checkpoint, i);
    bool mapped = t->bytes > 0 && !ie_checkpoint_is_copied(model->checkpoint, t);
    if (!model->bound[i] || !mapped || is_expert(model, t->data)) continue;
    tensor_add(&l, t, placement->embed_streamed && t->data == d->embed.part[0]);
  }
  spans_merge(&l);
  for (size_t i = 0; i < l.count; i++) span_load(&l, l.span[i]);
  while (ie_reader_pending(reader) > 0) load_finish(&l, /*timeout_ms=*/1000);
  free(l.span);
  return l.status;
}
