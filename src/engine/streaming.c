#include "engine/streaming.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/pages.h"
#include "base/size.h"
#include "engine/resident.h"
#include "models/decoder.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { WAIT_MS = 50, ROWS_TAG_BIT = 62 };
static const uint64_t rows_tag = (uint64_t)1 << ROWS_TAG_BIT;

/* Where one part of a layer's experts lies. */
typedef struct part_place {
  int file;
  uint64_t offset; /* of expert 0 */
  size_t bytes;    /* of each expert, one after the other; 0: the format has no such part */
} part_place;

typedef struct stream_slot {
  int reads;  /* under way */
  int failed; /* errno of one */
  int64_t layer, expert;
  bool expected; /* read on a guess, and not used yet */
  size_t bytes;  /* that were read for it */
} stream_slot;

typedef enum want_stage { WANT_MISSING, WANT_READING, WANT_TAKEN, WANT_DONE } want_stage;

typedef struct stream_want {
  int64_t expert, slot;
  want_stage stage;
} stream_want;

/* The embedding's rows, in place. */
typedef struct stream_rows {
  const uint8_t *first_row; /* where row 0 begins */
  size_t row_bytes;
  size_t page_bytes; /* at least IE_READER_ALIGN, and a multiple */
  uint8_t *pages;    /* the whole pages of the tensor */
  size_t count, held, held_max;
  int file;
  uint64_t offset; /* of pages */
  uint8_t *there;  /* (count) bits */
  int reads;
  ie_read_done failed;
} stream_rows;

struct ie_stream {
  ie_experts provider;
  ie_model *model;
  ie_placement place;
  ie_reader *reader;
  ie_expert_cache *cache;
  part_place *part; /* (layers, IE_PART_COUNT) */
  uint8_t *memory;  /* (slots, slot_bytes) */
  stream_slot *slot;
  stream_want *want; /* (most experts of a layer) */
  int64_t want_count, layer;
  ie_read_done failed; /* the first read of a wanted expert that failed and was not reported */
  stream_rows rows;
  ie_stream_stats stats; /* vain_bytes: of guesses whose slots were taken since */
  double busy_since;     /* when reads began to be under way; 0: none */
};

/* --- Reads -------------------------------------------------------------------------------------------------- */

static void read_start(ie_stream *s, int file, uint64_t offset, size_t bytes, void *to, uint64_t tag) {
  ie_read read = {.file = file, .offset = offset, .bytes = bytes, .to = to, .tag = tag};
  if (ie_reader_pending(s->reader) == 0) s->busy_since = ie_clock_s();
  ie_reader_start(s->reader, &read);
  s->stats.read_bytes += bytes;
}

/* A forward waits for that slot. What fails of others (of a guess, or of a forward that was cancelled) is read anew when
 * it is wanted. */
static bool is_wanted(const ie_stream *s, int64_t slot) {
  for (int64_t i = 0; i < s->want_count; i++)
    if (s->want[i].stage == WANT_READING && s->want[i].slot == slot) return true;
  return false;
}

static void read_done(ie_stream *s, const ie_read_done *done) {
  if (ie_reader_pending(s->reader) == 0) s->stats.read_s += ie_clock_s() - s->busy_since;
  if (done->read.tag == rows_tag) {
    s->rows.reads--;
    if (done->failed && !s->rows.failed.failed) s->rows.failed = *done;
    return;
  }
  stream_slot *slot = &s->slot[done->read.tag];
  slot->reads--;
  if (done->failed && !slot->failed) slot->failed = done->failed;
  if (done->failed && !s->failed.failed && is_wanted(s, (int64_t)done->read.tag)) s->failed = *done;
  if (slot->reads == 0) {
    ie_expert_cache_unpin(s->cache, (int64_t)done->read.tag);
    if (slot->failed) ie_expert_cache_drop(s->cache, (int64_t)done->read.tag);
  }
}

/* Handles what has come; waits for something when asked. */
static void reads_poll(ie_stream *s, int timeout_ms) {
  ie_read_done done;
  while (ie_reader_finish(s->reader, timeout_ms, &done)) {
    read_done(s, &done);
    timeout_ms = 0;
  }
}

/* --- Experts ------------------------------------------------------------------------------------------------ */

static const part_place *parts_of(const ie_stream *s, int64_t layer) {
  return s->part + layer * IE_PART_COUNT;
}

static const uint8_t *part_data(const ie_stream *s, int64_t layer, int64_t expert, int64_t slot, int k) {
  const part_place *p = &parts_of(s, layer)[k];
  if (p->bytes == 0) return NULL;
  uint64_t offset = p->offset + (uint64_t)expert * p->bytes;
  return s->memory + (size_t)slot * s->place.slot_bytes + s->place.part_at[k] + offset % IE_READER_ALIGN;
}

/* Starts to read an expert into a slot, which stays pinned until all has come. */
static void expert_read(ie_stream *s, int64_t layer, int64_t expert, int64_t slot) {
  if (s->slot[slot].expected) s->stats.vain_bytes += s->slot[slot].bytes;
  s->slot[slot] = (stream_slot){.layer = layer, .expert = expert};
  ie_expert_cache_pin(s->cache, slot);
  for (int k = 0; k < IE_PART_COUNT; k++) {
    const part_place *p = &parts_of(s, layer)[k];
    if (p->bytes == 0) continue;
    uint64_t offset = p->offset + (uint64_t)expert * p->bytes;
    uint64_t begin = offset / IE_READER_ALIGN * IE_READER_ALIGN;
    size_t bytes = ie_size_align((size_t)(offset + p->bytes - begin), IE_READER_ALIGN);
    s->slot[slot].reads++;
    s->slot[slot].bytes += bytes;
    read_start(s, p->file, begin, bytes, s->memory + (size_t)slot * s->place.slot_bytes + s->place.part_at[k],
               (uint64_t)slot);
  }
}

/* Begins as many of the missing reads as there are places for. */
static void missing_start(ie_stream *s) {
  for (int64_t i = 0; i < s->want_count; i++) {
    stream_want *w = &s->want[i];
    if (w->stage != WANT_MISSING) continue;
    w->slot = ie_expert_cache_take(s->cache, s->layer, w->expert);
    if (w->slot < 0) return;
    ie_expert_cache_pin(s->cache, w->slot);
    expert_read(s, s->layer, w->expert, w->slot);
    w->stage = WANT_READING;
  }
}

/* After a failure or a cancelled forward some of what was wanted may still be held. */
static void want_forget(ie_stream *s) {
  for (int64_t i = 0; i < s->want_count; i++)
    if (s->want[i].stage == WANT_READING || s->want[i].stage == WANT_TAKEN)
      ie_expert_cache_unpin(s->cache, s->want[i].slot);
  s->want_count = 0;
}

static void stream_want_list(ie_experts *self, ie_ctx *ctx, const ie_expert_want *list, int64_t n) {
  ie_stream *s = (ie_stream *)self;
  want_forget(s);
  reads_poll(s, 0);
  s->failed.failed = 0;
  s->layer = ctx->layer;
  s->want_count = n;
  for (int64_t i = 0; i < n; i++) {
    stream_want *w = &s->want[i];
    *w = (stream_want){.expert = list[i].expert,
                       .slot = ie_expert_cache_find(s->cache, s->layer, list[i].expert)};
    bool guessed = w->slot >= 0 && s->slot[w->slot].expected;
    s->stats.hits += w->slot >= 0 && !guessed;
    s->stats.misses += w->slot < 0 || guessed; /* read for this forward, if early */
    s->stats.expected_used += guessed;
    if (w->slot < 0) continue;
    s->slot[w->slot].expected = false;
    ie_expert_cache_pin(s->cache, w->slot);
    w->stage = WANT_READING; /* or all there already */
  }
  ie_expert_cache_use(s->cache, s->layer, list, n);
  missing_start(s);
}

/* Reads what is guessed into places in transit; what was guessed in vain is found out when its place is taken. */
static void stream_expect(ie_experts *self, ie_ctx *ctx, const int32_t *expert, int64_t n) {
  ie_stream *s = (ie_stream *)self;
  want_forget(s);
  reads_poll(s, 0);
  for (int64_t i = 0; i < n; i++) {
    if (ie_expert_cache_find(s->cache, ctx->layer, expert[i]) >= 0) continue;
    int64_t slot = ie_expert_cache_take(s->cache, ctx->layer, expert[i]);
    if (slot < 0) return;
    s->stats.expected++;
    expert_read(s, ctx->layer, expert[i], slot);
    s->slot[slot].expected = true;
  }
}

static int64_t ready_take(ie_stream *s, ie_expert_taken *out) {
  int64_t n = 0;
  for (int64_t i = 0; i < s->want_count; i++) {
    stream_want *w = &s->want[i];
    if (w->stage != WANT_READING || s->slot[w->slot].reads > 0) continue;
    if (s->slot[w->slot].failed) {
      /* It was under way when it was asked for, and a part of it had failed before: read anew. */
      ie_expert_cache_unpin(s->cache, w->slot);
      w->stage = WANT_MISSING;
      continue;
    }
    w->stage = WANT_TAKEN;
    ie_expert_taken *t = &out[n++];
    *t = (ie_expert_taken){.index = i};
    for (int k = 0; k < IE_PART_COUNT; k++)
      (k < 2 ? t->gate_up : t->down)[k % 2] = part_data(s, s->layer, w->expert, w->slot, k);
  }
  return n;
}

static int64_t stream_take(ie_experts *self, ie_ctx *ctx, ie_expert_taken *out) {
  ie_stream *s = (ie_stream *)self;
  double began = 0;
  while (true) {
    reads_poll(s, 0);
    if (s->failed.failed) {
      ie_error error;
      (void)ie_reader_error(s->reader, &s->failed, &error);
      ie_ctx_fail(ctx, IE_IO, "%s", error.message);
    }
    if (ctx->status != IE_OK) {
      want_forget(s);
      return 0;
    }
    missing_start(s);
    int64_t n = ready_take(s, out);
    if (n == 0) missing_start(s);
    if (n > 0) {
      if (began > 0) s->stats.wait_s += ie_clock_s() - began;
      return n;
    }
    if (began == 0) began = ie_clock_s();
    if (ctx->cancelled && ctx->cancelled(ctx->cancelled_arg)) ie_ctx_fail(ctx, IE_CANCELLED, "cancelled");
    if (ctx->status == IE_OK) reads_poll(s, WAIT_MS);
  }
}

static void stream_give_back(ie_experts *self) {
  ie_stream *s = (ie_stream *)self;
  for (int64_t i = 0; i < s->want_count; i++) {
    stream_want *w = &s->want[i];
    if (w->stage != WANT_TAKEN) continue;
    w->stage = WANT_DONE;
    ie_expert_cache_unpin(s->cache, w->slot);
    ie_expert_cache_settle(s->cache, w->slot);
  }
  reads_poll(s, 0);
  missing_start(s);
}

ie_experts *ie_stream_experts(ie_stream *s) {
  return &s->provider;
}

/* --- Rows of the embedding ---------------------------------------------------------------------------------- */

static bool page_there(const stream_rows *r, size_t page) {
  return r->there[page / 8] >> page % 8 & 1;
}

/* Lets all pages go when so many more would not fit. */
static void rows_make_room(stream_rows *r, size_t more) {
  if (r->held + more <= r->held_max || r->held == 0) return;
  (void)madvise(r->pages, r->count * r->page_bytes, MADV_DONTNEED);
  memset(r->there, 0, (r->count + 7) / 8);
  r->held = 0;
}

/* Pages first .. last of the tensor that the row needs; those at its edges, which it shares, are always there. */
static bool row_pages(const stream_rows *r, int64_t id, size_t *first, size_t *last) {
  const uint8_t *begin = r->first_row + (size_t)id * r->row_bytes, *end = begin + r->row_bytes;
  const uint8_t *pages_end = r->pages + r->count * r->page_bytes;
  if (begin < r->pages) begin = r->pages;
  if (end > pages_end) end = pages_end;
  if (begin >= end) return false;
  *first = (size_t)(begin - r->pages) / r->page_bytes;
  *last = (size_t)(end - 1 - r->pages) / r->page_bytes;
  return true;
}

static void row_read(ie_stream *s, int64_t id) {
  stream_rows *r = &s->rows;
  size_t first, last;
  if (!row_pages(r, id, &first, &last)) return;
  for (size_t page = first; page <= last;) {
    size_t n = 0;
    for (; page + n <= last && !page_there(r, page + n); n++)
      r->there[(page + n) / 8] |= (uint8_t)(1 << (page + n) % 8);
    if (n == 0) {
      page++;
      continue;
    }
    while (!ie_reader_has_room(s->reader)) reads_poll(s, WAIT_MS);
    r->reads++;
    r->held += n;
    read_start(s, r->file, r->offset + page * r->page_bytes, n * r->page_bytes,
               r->pages + page * r->page_bytes, rows_tag);
    page += n;
  }
}

ie_status ie_stream_rows(ie_stream *s, const ie_ctx *ctx, const int32_t *ids, int64_t n, ie_error *error) {
  stream_rows *r = &s->rows;
  if (!r->pages) return IE_OK;
  size_t row_pages_most = ie_size_align(r->row_bytes, r->page_bytes) / r->page_bytes + 1;
  /* Of a forward that was cancelled: pages that are still read must not be let go and read once more. */
  while (r->reads > 0) reads_poll(s, WAIT_MS);
  rows_make_room(r, (size_t)n * row_pages_most);
  for (int64_t i = 0; i < n; i++) row_read(s, ids[i]);
  while (r->reads > 0) {
    reads_poll(s, WAIT_MS);
    /* What is under way then is waited for by the next forward, and fails that one when it fails. */
    if (r->reads > 0 && ctx->cancelled && ctx->cancelled(ctx->cancelled_arg))
      return ie_error_set(error, IE_CANCELLED, "cancelled");
  }
  if (!r->failed.failed) return IE_OK;
  ie_read_done failed = r->failed;
  r->failed.failed = 0;
  rows_make_room(r, SIZE_MAX / 2);
  return ie_reader_error(s->reader, &failed, error);
}

/* --- Life --------------------------------------------------------------------------------------------------- */

static void stream_free(ie_stream *s) {
  if (!s) return;
  ie_reader_free(s->reader);
  ie_expert_cache_free(s->cache);
  if (s->memory) munmap(s->memory, (size_t)s->place.slots * s->place.slot_bytes);
  free(s->part);
  free(s->slot);
  free(s->want);
  free(s->rows.there);
  free(s);
}

static ie_status files_add(ie_stream *s, ie_error *error) {
  const ie_checkpoint *c = s->model->checkpoint;
  ie_status status = IE_OK;
  for (size_t i = 0; status == IE_OK && i < ie_checkpoint_file_count(c); i++) {
    size_t bytes;
    int number; /* the checkpoint's own, since all are added in its order */
    status = ie_reader_add(s->reader, ie_checkpoint_file_at(c, i, &bytes), &number, error);
  }
  return status;
}

static void parts_locate(ie_stream *s) {
  for (int64_t i = 0; i < s->model->info.layers; i++) {
    const ie_weight *w[2] = {s->model->moe[i].gate_up, s->model->moe[i].down};
    for (int k = 0; w[0] && k < IE_PART_COUNT; k++) {
      part_place *p = &s->part[i * IE_PART_COUNT + k];
      size_t file = 0;
      p->bytes = w[k / 2]->expert_bytes[k % 2];
      if (p->bytes)
        (void)ie_checkpoint_locate(s->model->checkpoint, w[k / 2]->part[k % 2], &file, &p->offset);
      p->file = (int)file;
    }
  }
}

static ie_status tables_make(ie_stream *s, int64_t experts, const ie_stream_options *o, ie_error *error) {
  size_t layers = (size_t)s->model->info.layers, slots = (size_t)s->place.slots;
  s->part = calloc(layers * IE_PART_COUNT, sizeof *s->part);
  s->slot = calloc(slots, sizeof *s->slot);
  s->want = calloc((size_t)experts, sizeof *s->want);
  void *memory = mmap(NULL, slots * s->place.slot_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  s->memory = memory == MAP_FAILED ? NULL : memory;
  if (!s->part || !s->slot || !s->want || !s->memory)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu slots of %zu bytes", slots,
                        s->place.slot_bytes);
  (void)madvise(s->memory, slots * s->place.slot_bytes, MADV_HUGEPAGE);
  /* Taken now rather than while tokens are computed; where the system cannot, then. */
  (void)madvise(s->memory, slots * s->place.slot_bytes, MADV_POPULATE_WRITE);
  parts_locate(s);
  ie_expert_cache_options cache = {.layers = s->model->info.layers,
                                   .experts = experts,
                                   .slots = s->place.slots,
                                   .transit = s->place.transit,
                                   .rule = o->rule};
  return ie_expert_cache_new(&cache, &s->cache, error);
}

static ie_status rows_make(ie_stream *s, ie_error *error) {
  const ie_decoder *d = s->model->net;
  stream_rows *r = &s->rows;
  if (!s->place.embed_streamed) return IE_OK;
  memory_span inner = ie_resident_inner(d->embed.part[0], s->place.embed_disk_bytes);
  if (inner.bytes == 0) return IE_OK; /* smaller than a page: it is resident with its neighbours */
  size_t file;
  if (!ie_checkpoint_locate(s->model->checkpoint, inner.data, &file, &r->offset))
    return ie_error_set(error, IE_INTERNAL, "the embedding is not mapped");
  r->page_bytes = ie_page_bytes();
  r->count = inner.bytes / r->page_bytes;
  r->there = calloc((r->count + 7) / 8, 1);
  if (!r->there) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the embedding's rows");
  r->first_row = d->embed.part[0];
  r->row_bytes = d->embed.row_bytes[0];
  r->held_max = s->place.rows_bytes / r->page_bytes;
  r->file = (int)file;
  ie_status status = ie_map_replace(inner.data, inner.bytes, /*huge=*/false, error);
  if (status == IE_OK) r->pages = (uint8_t *)(uintptr_t)inner.data;
  return status;
}

ie_status ie_stream_open(ie_model *model, const ie_placement *placement, const ie_stream_options *options,
                         ie_error *error) {
  static const ie_stream_options defaults = {0};
  if (!options) options = &defaults;
  ie_stream *s = calloc(1, sizeof *s);
  if (!s) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a stream of experts");
  s->model = model;
  s->place = *placement;
  s->provider = (ie_experts){
      .want = stream_want_list, .expect = stream_expect, .take = stream_take, .give_back = stream_give_back};
  int64_t experts = 1;
  for (int64_t i = 0; i < model->info.layers; i++)
    if (model->moe[i].gate_up) experts = ie_max_i64(experts, model->moe[i].gate_up->experts);
  ie_reader_options reader = options->reader;
  /* All slots in transit, or a forward's rows, at once. */
  reader.requests = (int)(placement->slots + 1) * IE_PART_COUNT;
  if (reader.requests < 256) reader.requests = 256;
  ie_status status = ie_reader_new(&reader, &s->reader, error);
  if (status == IE_OK) status = files_add(s, error);
  if (status == IE_OK) status = tables_make(s, experts, options, error);
  if (status == IE_OK) status = ie_resident_load(model, placement, s->reader, error);
  if (status == IE_OK) status = rows_make(s, error);
  if (status != IE_OK) {
    stream_free(s);
    return status;
  }
  s->stats = (ie_stream_stats){.streamed = true,
                               .slots = placement->slots,
                               .slot_bytes = placement->slot_bytes,
                               .direct = ie_reader_direct(s->reader),
                               .uring = ie_reader_which(s->reader) == IE_READER_URING};
  model->stream = s;
  model->stream_free = stream_free;
  return IE_OK;
}

void ie_stream_describe(const ie_stream *s, ie_stream_stats *out) {
  *out = s->stats;
  for (int64_t i = 0; i < s->place.slots; i++)
    if (s->slot[i].expected) out->vain_bytes += s->slot[i].bytes;
  if (ie_reader_pending(s->reader) > 0) out->read_s += ie_clock_s() - s->busy_since;
}
