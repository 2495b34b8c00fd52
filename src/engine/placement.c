#include "engine/placement.h"

#include "base/memory.h"
#include "base/pages.h"
#include "base/reader.h"
#include "base/size.h"
#include "models/decoder.h"

#include <math.h>

/* The program itself, its stacks and tables, jansson's header objects. */
static const size_t program_bytes = 8u << 20;
/* A tokenizer, for each id of the model: what it keeps, and what reading it takes beside its file. Measured with o200k,
 * Qwen and GPT-NeoX as rank file, tokenizer.json and pack: 56 to 87 bytes, and 110 to 160 (docs/DESIGN.md). */
enum { TOKENIZER_KEPT = 100, TOKENIZER_READ = 200 };
static const size_t tokenizer_least_bytes = 1u << 20;
/* Of a reader, and what the system itself takes for direct reads and for files that are opened. */
static const size_t reader_bytes = 8u << 20;
/* Page tables: 8 bytes for each page of 4 KiB. */
enum { PAGE_TABLE_SHARE = 512, TRANSIT = 8, TRANSIT_LEAST = 2 };
static const size_t rows_least_bytes = 4u << 20;
/* Tokens of a context for each row that is looked up, as texts repeat theirs: books and stories in o200k have 3 to 4 tokens
 * for a different one among 2,048, 7 to 15 among 32,768 (docs/SPEED.md). Random ids need more than this plans. */
enum { TEXT_REPEATS = 2 };

/* Memory of a device with its own, or what this process may use of the machine's. */
static size_t most_bytes(ie_device *device) {
  size_t room, total;
  if (!device->memory) return ie_memory_limit();
  device->memory->room(device, &room, &total);
  return total;
}

/* Of an expert's part, wherever it begins in a page. */
static size_t part_span(size_t bytes) {
  return bytes ? ie_size_align(bytes, IE_READER_ALIGN) + IE_READER_ALIGN : 0;
}

/* The largest slot of all layers. False when there are no experts, or experts that are not read as they are stored. */
static bool slots_shape(const ie_model *model, ie_placement *p) {
  size_t span[IE_PART_COUNT] = {0};
  bool some = false;
  for (int64_t i = 0; i < model->info.layers; i++) {
    const ie_weight *w[2] = {model->moe[i].gate_up, model->moe[i].down};
    if (!w[0]) continue;
    some = true;
    for (int k = 0; k < IE_PART_COUNT; k++) {
      size_t file;
      uint64_t offset;
      const ie_weight *one = w[k / 2];
      size_t bytes = one->expert_bytes[k % 2];
      if (bytes == 0) continue;
      if (!ie_checkpoint_locate(model->checkpoint, one->part[k % 2], &file, &offset)) return false;
      if (part_span(bytes) > span[k]) span[k] = part_span(bytes);
      p->expert_disk_bytes += (size_t)one->experts * bytes;
    }
  }
  for (int k = 0; k < IE_PART_COUNT; k++) {
    p->part_at[k] = p->slot_bytes;
    p->slot_bytes += span[k];
  }
  return some;
}

static int64_t slots_most(const ie_model *model) {
  int64_t most = 0;
  for (int64_t i = 0; i < model->info.layers; i++)
    if (model->moe[i].gate_up) most += model->moe[i].gate_up->experts;
  return most + TRANSIT;
}

/* A transposed weight is read once from its mapping and then only from its copy; its pages stay in the page cache. Those
 * of a quantised one are let go as soon as they are read. */
static size_t resident_bytes(const ie_model *model) {
  const ie_model_info *info = &model->info;
  return info->weights_bytes - info->weights_replaced_bytes + info->weights_copied_bytes;
}

/* A device of its own gets what is computed with, and no more. */
static size_t held_bytes(const ie_model *model) {
  const ie_model_info *info = &model->info;
  return info->weights_bytes - info->weights_replaced_bytes + model->quantised_bytes;
}

static size_t streamed_fixed(const ie_placement *p) {
  return p->resident_bytes + p->rows_bytes + p->kv_bytes + p->scratch_bytes;
}

/* Of the tokenizer, beside `own` bytes of everything else. It is read before they are taken, and what reading takes more
 * is given back. */
static size_t tokenizer_bytes(const ie_model *model, size_t own) {
  size_t ids = (size_t)model->info.vocab;
  if (model->tokenizer_bytes == 0) return 0;
  size_t kept = tokenizer_least_bytes + TOKENIZER_KEPT * ids;
  size_t read = tokenizer_least_bytes + TOKENIZER_READ * ids + model->tokenizer_bytes;
  return read > own && read - own > kept ? read - own : kept;
}

/* A row of the embedding begins in any page. */
static size_t row_span(const ie_model *model) {
  const ie_decoder *d = model->net;
  return ie_size_align(d->embed.row_bytes[0], ie_page_bytes()) + ie_page_bytes();
}

static size_t with_tables(size_t bytes) {
  return bytes + bytes / PAGE_TABLE_SHARE;
}

static void streamed_make(const ie_model *model, const ie_state_sizes *sizes, size_t limit, ie_placement *p) {
  p->streamed = true;
  bool replaced;
  size_t lookup = ie_model_lookup_bytes(model, &replaced);
  p->embed_disk_bytes = replaced ? 0 : lookup;
  p->embed_streamed = p->embed_disk_bytes > 0;
  /* three times a forward's rows, so that some are found again */
  p->rows_bytes = p->embed_streamed ? 3 * (size_t)sizes->batch_max * row_span(model) : 0;
  if (p->embed_streamed && p->rows_bytes < rows_least_bytes) p->rows_bytes = rows_least_bytes;
  /* No model with experts ties its head to the embedding, so a matrix is left out once. */
  p->resident_bytes = resident_bytes(model) - p->expert_disk_bytes - p->embed_disk_bytes;
  p->other_bytes = program_bytes + reader_bytes +
                   tokenizer_bytes(model, streamed_fixed(p) + TRANSIT_LEAST * p->slot_bytes);
  size_t least = with_tables(streamed_fixed(p) + TRANSIT_LEAST * p->slot_bytes) + p->other_bytes;
  p->minimum_bytes = least;
  p->slots = TRANSIT_LEAST;
  if (limit > least) p->slots += (int64_t)((limit - least) / with_tables(p->slot_bytes));
  p->slots = ie_min_i64(p->slots, slots_most(model));
  /* Enough to keep a disk busy; no more than a third of the slots, since those at home are found again. */
  p->transit = ie_max_i64(TRANSIT_LEAST, ie_min_i64(TRANSIT, p->slots / 3));
  size_t own = streamed_fixed(p) + (size_t)p->slots * p->slot_bytes;
  p->other_bytes += own / PAGE_TABLE_SHARE;
  p->peak_bytes = own + p->other_bytes;
  p->fits = limit >= least;
}

/* Activations, tables of the host, and what a device's forwards take besides. */
static size_t scratch_bytes(const ie_state_sizes *sizes) {
  return sizes->scratch_bytes + sizes->table_bytes + sizes->runner_bytes;
}

bool ie_placement_split(const ie_model *model, const ie_state_sizes *sizes, size_t limit, ie_placement *out) {
  *out = (ie_placement){.kv_bytes = sizes->kv_bytes, .scratch_bytes = scratch_bytes(sizes)};
  if (!slots_shape(model, out)) return false;
  streamed_make(model, sizes, limit, out);
  return true;
}

void ie_placement_make(const ie_model *model, const ie_state_sizes *sizes, size_t limit, ie_placement *out) {
  ie_placement p = {.kv_bytes = sizes->kv_bytes, .scratch_bytes = scratch_bytes(sizes)};
  bool replaced;
  size_t lookup = ie_model_lookup_bytes(model, &replaced);
  p.embed_disk_bytes = replaced ? 0 : lookup;
  double looked_up =
      (double)sizes->context * (double)sizes->sequences / TEXT_REPEATS * (double)row_span(model);
  p.rows_bytes = (size_t)fmin(looked_up, (double)lookup);
  p.resident_bytes = (model->device->memory ? held_bytes(model) : resident_bytes(model)) - p.embed_disk_bytes;
  size_t own = p.resident_bytes + p.rows_bytes + p.kv_bytes + p.scratch_bytes;
  p.other_bytes = program_bytes + tokenizer_bytes(model, own) + own / PAGE_TABLE_SHARE;
  p.peak_bytes = p.minimum_bytes = own + p.other_bytes;
  size_t most = most_bytes(model->device);
  if (limit > most && limit - most >= ie_page_bytes()) limit = most; /* control groups cut pages off */
  p.limit_bytes = limit ? limit : most;
  p.fits = p.peak_bytes <= p.limit_bytes;
  ie_placement split;
  if (ie_placement_split(model, sizes, limit, &split)) {
    bool less = split.minimum_bytes < p.minimum_bytes; /* a small model takes least as a whole */
    if (less && limit && !p.fits) {
      p = split;
      p.limit_bytes = limit;
    } else if (less) {
      p.minimum_bytes = split.minimum_bytes;
    }
  }
  *out = p;
}
