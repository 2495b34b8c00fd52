#include "engine/resident.h"

#include "base/file.h"
#include "base/size.h"
#include "models/decoder.h"

memory_span ie_resident_outer(const void *data, size_t bytes) {
  uintptr_t begin = (uintptr_t)data / IE_READER_ALIGN * IE_READER_ALIGN;
  uintptr_t end = ((uintptr_t)data + bytes + IE_READER_ALIGN - 1) / IE_READER_ALIGN * IE_READER_ALIGN;
  return (memory_span){(const uint8_t *)begin, end - begin};
}

memory_span ie_resident_inner(const void *data, size_t bytes) {
  uintptr_t begin = ((uintptr_t)data + IE_READER_ALIGN - 1) / IE_READER_ALIGN * IE_READER_ALIGN;
  uintptr_t end = ((uintptr_t)data + bytes) / IE_READER_ALIGN * IE_READER_ALIGN;
  return (memory_span){(const uint8_t *)begin, end > begin ? end - begin : 0};
}

enum { UNDER_WAY_MAX = 64 };

typedef struct loading {
  const ie_model *model;
  ie_reader *reader;
  ie_status status;
  ie_error *error;
  memory_span under_way[UNDER_WAY_MAX]; /* (count) what is being read now */
  int count;
} loading;

static void load_finish(loading *l, int timeout_ms) {
  ie_read_done done;
  while (ie_reader_finish(l->reader, timeout_ms, &done)) {
    if (done.failed && l->status == IE_OK) l->status = ie_reader_error(l->reader, &done, l->error);
    for (int i = 0; i < l->count; i++)
      if (l->under_way[i].data == done.read.to) l->under_way[i--] = l->under_way[--l->count];
    timeout_ms = 0;
  }
}

/* Both are whole pages, and only the page at an edge can be in both. */
static memory_span span_without(memory_span span, memory_span other) {
  const uint8_t *begin = span.data, *end = begin + span.bytes, *other_end = other.data + other.bytes;
  if (begin >= other.data && begin < other_end) begin = other_end < end ? other_end : end;
  if (end > other.data && end <= other_end) end = other.data > begin ? other.data : begin;
  return (memory_span){begin, (size_t)(end - begin)};
}

static void span_load(loading *l, memory_span span) {
  size_t file;
  uint64_t offset;
  while (l->count == UNDER_WAY_MAX || !ie_reader_has_room(l->reader)) load_finish(l, 1000);
  /* A page that is shared with a neighbour is taken anew and read again, the same bytes; but while it is under way for
   * him, it is his to fill: nothing is mapped under a read, and no page is written twice at a time. */
  for (int i = 0; i < l->count; i++) span = span_without(span, l->under_way[i]);
  if (l->status != IE_OK || span.bytes == 0) return;
  if (!ie_checkpoint_locate(l->model->checkpoint, span.data, &file, &offset)) {
    l->status = ie_error_set(l->error, IE_INTERNAL, "a weight is not mapped");
    return;
  }
  l->status = ie_map_replace(span.data, span.bytes, /*huge=*/true, l->error);
  if (l->status != IE_OK) return;
  ie_read read = {
      .file = (int)file, .offset = offset, .bytes = span.bytes, .to = (void *)(uintptr_t)span.data};
  l->under_way[l->count++] = span;
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

static void embed_load(loading *l, const ie_tensor_info *t) {
  memory_span outer = ie_resident_outer(t->data, t->bytes), inner = ie_resident_inner(t->data, t->bytes);
  if (inner.bytes == 0) {
    span_load(l, outer);
    return;
  }
  const uint8_t *inner_end = inner.data + inner.bytes;
  span_load(l, (memory_span){outer.data, (size_t)(inner.data - outer.data)});
  span_load(l, (memory_span){inner_end, (size_t)(outer.data + outer.bytes - inner_end)});
}

ie_status ie_resident_load(const ie_model *model, const ie_placement *placement, ie_reader *reader,
                           ie_error *error) {
  loading l = {.model = model, .reader = reader, .error = error};
  const ie_decoder *d = model->net;
  for (size_t i = 0; i < ie_checkpoint_count(model->checkpoint); i++) {
    const ie_tensor_info *t = ie_checkpoint_at(model->checkpoint, i);
    bool mapped = t->bytes > 0 && !ie_checkpoint_is_copied(model->checkpoint, t);
    if (!model->bound[i] || !mapped || is_expert(model, t->data)) continue;
    if (placement->embed_streamed && t->data == d->embed.part[0])
      embed_load(&l, t);
    else
      span_load(&l, ie_resident_outer(t->data, t->bytes));
  }
  while (ie_reader_pending(reader) > 0) load_finish(&l, /*timeout_ms=*/1000);
  return l.status;
}
