#include "models/bind.h"

#include "base/file.h"
#include "base/size.h"
#include "models/attach.h"
#include "models/bind_train.h"
#include "tensor/quantise.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 192 };

/* "[2, 3]" */
static void shape_text(const int64_t *shape, int rank, char out[128]) {
  int at = snprintf(out, 128, "[");
  for (int i = 0; i < rank && at < 100; i++)
    at += snprintf(out + at, 128 - (size_t)at, "%s%lld", i ? ", " : "", (long long)shape[i]);
  snprintf(out + at, 128 - (size_t)at, "]");
}

const ie_tensor_info *ie_bind_find(ie_binder *b, const char *name, const int64_t *shape, int rank) {
  const ie_tensor_info *t = ie_checkpoint_find(b->checkpoint, name);
  char expected[128], found[128];
  shape_text(shape, rank, expected);
  if (!t) {
    b->status = ie_error_set(b->error, IE_FORMAT, "%s: tensor %s is missing, expected shape %s",
                             ie_checkpoint_dir(b->checkpoint), name, expected);
    return NULL;
  }
  bool same = t->rank == rank;
  for (int i = 0; same && i < rank; i++) same = t->shape[i] == shape[i];
  if (!same) {
    shape_text(t->shape, t->rank, found);
    b->status = ie_error_set(b->error, IE_FORMAT, "%s: tensor %s: expected shape %s, found %s", t->file, name,
                             expected, found);
    return NULL;
  }
  b->bound_bytes += t->bytes;
  b->bound[t - ie_checkpoint_at(b->checkpoint, 0)] = true;
  return t;
}

/* Kernels read 16- and 32-bit words: a tensor that an old writer left unaligned is refused by name. */
bool ie_bind_float(ie_binder *b, const ie_tensor_info *t) {
  bool known = t->dtype == IE_F32 || t->dtype == IE_F16 || t->dtype == IE_BF16;
  if (!known)
    b->status = ie_error_set(b->error, IE_UNSUPPORTED, "%s: tensor %s: expected F32, F16 or BF16, found %s",
                             t->file, t->name, ie_dtype_name(t->dtype));
  else if ((uintptr_t)t->data % ie_dtype_bytes(t->dtype) != 0)
    b->status =
        ie_error_set(b->error, IE_FORMAT, "%s: tensor %s: its data at byte %llu is not aligned to %zu bytes",
                     t->file, t->name, (unsigned long long)t->offset, ie_dtype_bytes(t->dtype));
  return b->status == IE_OK;
}

static ie_wformat float_format(ie_dtype dtype) {
  return dtype == IE_F32 ? IE_W_F32 : dtype == IE_F16 ? IE_W_F16 : IE_W_BF16;
}

void ie_bind_weight_finish(ie_binder *b, const ie_bind_entry *e, ie_weight *w) {
  for (int i = 0; i < 2; i++) w->row_bytes[i] = ie_wformat_row_bytes(w->format, i, w->cols);
  if (w->param) w->row_bytes[0] = (size_t)w->cols * sizeof(real);
  for (int i = 0; i < 2; i++) w->expert_bytes[i] = w->row_bytes[i] * (size_t)w->rows;
  /* A row of `few` does not depend on its neighbours, nor does one of `many` that computes as `few` does. */
  w->exact = e->f32;
  ie_class cls = e->f32 ? IE_CLASS_F32 : b->cls;
  ie_weight_choose(w, &b->device->kernels, cls);
  if (b->deterministic && !b->device->kernels.many_as_few[cls][w->format]) w->many = NULL;
  int64_t count = w->experts * w->rows * w->cols;
  b->parameters += count;
  if (w->experts > 1) b->expert_parameters += count;
  b->formats |= 1u << w->format;
}

void *ie_bind_alloc(ie_binder *b, size_t bytes) {
  ie_owned *owned = calloc(1, sizeof *owned);
  void *memory = owned ? b->device->alloc(b->device, bytes) : NULL;
  if (!memory) {
    free(owned);
    b->status = ie_error_set(b->error, IE_OUT_OF_MEMORY, "out of memory for %zu bytes of weights", bytes);
    return NULL;
  }
  *owned = (ie_owned){.memory = memory, .bytes = bytes, .next = b->owned};
  b->owned = owned;
  return memory;
}

/* Encodes a float matrix as the binder's dense format. In a plan it gets the format and no bytes. */
static void dense_quantise(ie_binder *b, ie_weight *w) {
  size_t bytes = ie_quantised_bytes(b->dense, w->rows, w->cols);
  b->owned_bytes += bytes;
  b->quantised_bytes += bytes;
  if (b->plan_only) {
    w->format = b->dense;
    return;
  }
  for (int i = 0; i < 2; i++) w->row_bytes[i] = ie_wformat_row_bytes(w->format, i, w->cols);
  void *memory = ie_bind_alloc(b, bytes);
  if (!memory) return;
  /* Pages of a map can go once they are read; a checkpoint that was unpacked into memory must stay. */
  bool mapped = ie_checkpoint_copied_bytes(b->checkpoint) == 0;
  const void *source = w->part[0];
  size_t source_bytes = (size_t)w->rows * w->row_bytes[0];
  b->status = ie_weight_quantise(b->device->team, &b->device->kernels, w, b->dense, memory,
                                 mapped ? ie_map_release : NULL, b->error);
  if (b->limited && mapped) ie_checkpoint_forget(b->checkpoint, source, source_bytes);
}

void ie_bind_tied_head(ie_binder *b, const ie_weight *embed, ie_weight *head) {
  if (b->status != IE_OK || b->dense == IE_W_COUNT || head->part[0] != embed->part[0]) return;
  b->replaced_bytes += (size_t)head->rows * ie_wformat_row_bytes(head->format, 0, head->cols);
  dense_quantise(b, head);
  if (b->status != IE_OK) return;
  for (int i = 0; i < 2; i++) head->row_bytes[i] = ie_wformat_row_bytes(head->format, i, head->cols);
  ie_weight_choose(head, &b->device->kernels, b->cls);
  if (b->deterministic && !b->device->kernels.many_as_few[b->cls][head->format]) head->many = NULL;
  b->formats |= 1u << head->format;
}

static void bind_vector(ie_binder *b, const char *name, int64_t n, ie_vector *out) {
  const ie_tensor_info *t = ie_bind_find(b, name, &n, 1);
  if (!t || !ie_bind_float(b, t)) return;
  *out = (ie_vector){.data = t->data, .dtype = t->dtype, .n = n};
  b->parameters += n;
}

/* Rows first .. first + rows of a matrix (total, cols); the whole matrix when total = rows. */
static void bind_rows(ie_binder *b, const char *name, const ie_bind_entry *e, ie_weight *w) {
  int64_t rows = b->dims[e->rows], cols = b->dims[e->cols];
  int64_t total = e->kind == IE_BIND_ROWS ? b->dims[e->total] : rows;
  int64_t first = e->kind == IE_BIND_ROWS && e->first ? b->dims[e->first] : 0;
  const ie_tensor_info *t = ie_bind_find(b, name, (int64_t[]){total, cols}, 2);
  if (!t || !ie_bind_float(b, t)) return;
  *w = (ie_weight){
      .name = t->name, .format = float_format(t->dtype), .experts = 1, .rows = rows, .cols = cols};
  size_t row_bytes = (size_t)cols * ie_dtype_bytes(t->dtype);
  w->part[0] = (const uint8_t *)t->data + (size_t)first * row_bytes;
  if (total != rows) b->bound_bytes -= t->bytes - (size_t)rows * row_bytes;
  if (b->dense != IE_W_COUNT && !e->f32 && w != b->lookup) {
    b->replaced_bytes += (size_t)rows * row_bytes;
    dense_quantise(b, w);
    if (b->status != IE_OK) return;
    b->bound[t - ie_checkpoint_at(b->checkpoint, 0)] = false;
  }
  ie_bind_weight_finish(b, e, w);
}

static void bind_bias(ie_binder *b, const char *name, const ie_bind_entry *e, ie_weight *w) {
  int64_t experts = e->experts ? b->dims[e->experts] : 1, rows = b->dims[e->rows];
  bool part = e->kind == IE_BIND_BIAS_ROWS;
  int64_t shape[2] = {experts, rows};
  if (part) shape[1] = b->dims[e->total];
  const ie_tensor_info *t =
      e->experts ? ie_bind_find(b, name, shape, 2) : ie_bind_find(b, name, shape + 1, 1);
  if (!t || !ie_bind_float(b, t)) return;
  int64_t first = part && e->first ? b->dims[e->first] : 0;
  w->bias = (const uint8_t *)t->data + (size_t)first * ie_dtype_bytes(t->dtype);
  w->bias_dtype = t->dtype;
  w->bias_stride = rows;
  b->parameters += experts * rows;
  if (experts > 1) b->expert_parameters += experts * rows;
  if (part) b->bound_bytes -= t->bytes - (size_t)rows * ie_dtype_bytes(t->dtype);
}

bool ie_bind_mxfp4_find(ie_binder *b, const char *name, const char *blocks, const char *scales,
                        const int64_t shape[3], const ie_tensor_info *out[2]) {
  const char *suffix[2] = {blocks, scales};
  if (shape[2] % 32 != 0) {
    b->status =
        ie_error_set(b->error, IE_FORMAT, "%s: tensor %s: MXFP4 needs a multiple of 32 columns, found %lld",
                     ie_checkpoint_dir(b->checkpoint), name, (long long)shape[2]);
    return false;
  }
  for (int i = 0; i < 2; i++) {
    char full[NAME_BYTES + 16];
    snprintf(full, sizeof full, "%s%s", name, suffix[i]);
    out[i] = ie_bind_find(b, full, (int64_t[]){shape[0], shape[1], shape[2] / 32, 16}, i == 0 ? 4 : 3);
    if (!out[i]) return false;
    if (out[i]->dtype != IE_U8) {
      b->status = ie_error_set(b->error, IE_FORMAT, "%s: tensor %s: expected U8, found %s", out[i]->file,
                               out[i]->name, ie_dtype_name(out[i]->dtype));
      return false;
    }
  }
  return true;
}

static void bind_mxfp4(ie_binder *b, const char *name, const ie_bind_entry *e, ie_weight *w) {
  const int64_t shape[3] = {b->dims[e->experts], b->dims[e->rows], b->dims[e->cols]};
  const ie_tensor_info *t[2];
  if (!ie_bind_mxfp4_find(b, name, e->blocks, e->scales, shape, t)) return;
  *w = (ie_weight){
      .name = t[0]->name, .format = IE_W_MXFP4, .experts = shape[0], .rows = shape[1], .cols = shape[2]};
  w->part[0] = t[0]->data;
  w->part[1] = t[1]->data;
  ie_bind_weight_finish(b, e, w);
}

/* --- Transposed stacks of experts ------------------------------------------------------------------------ */

typedef struct transpose_job {
  uint8_t *to;
  const uint8_t *from;
  int64_t rows, cols; /* of the result */
  size_t bytes;       /* of an element: 2 or 4 */
} transpose_job;

enum { TRANSPOSE_TILE = 64 };

static void transpose_tile(const transpose_job *job, size_t base, int64_t r0, int64_t c0) {
  int64_t r1 = ie_min_i64(r0 + TRANSPOSE_TILE, job->rows), c1 = ie_min_i64(c0 + TRANSPOSE_TILE, job->cols);
  for (int64_t r = r0; r < r1; r++)
    for (int64_t c = c0; c < c1; c++)
      memcpy(job->to + (base + (size_t)(r * job->cols + c)) * job->bytes,
             job->from + (base + (size_t)(c * job->rows + r)) * job->bytes, job->bytes);
}

static void transpose_experts(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const transpose_job *job = arg;
  for (int64_t e = begin; e < end; e++)
    for (int64_t r = 0; r < job->rows; r += TRANSPOSE_TILE)
      for (int64_t c = 0; c < job->cols; c += TRANSPOSE_TILE)
        transpose_tile(job, (size_t)(e * job->rows * job->cols), r, c);
}

static void bind_experts(ie_binder *b, const char *name, const ie_bind_entry *e, ie_weight *w) {
  int64_t experts = b->dims[e->experts], rows = b->dims[e->rows], cols = b->dims[e->cols];
  const ie_tensor_info *t = ie_bind_find(b, name, (int64_t[]){experts, cols, rows}, 3);
  if (!t || !ie_bind_float(b, t)) return;
  *w = (ie_weight){
      .name = t->name, .format = float_format(t->dtype), .experts = experts, .rows = rows, .cols = cols};
  ie_bind_weight_finish(b, e, w);
  b->owned_bytes += t->bytes;
  if (b->plan_only) return;
  void *memory = ie_bind_alloc(b, t->bytes);
  if (!memory) return;
  b->bound[t - ie_checkpoint_at(b->checkpoint, 0)] = false; /* read once, here */
  transpose_job job = {memory, t->data, rows, cols, ie_dtype_bytes(t->dtype)};
  ie_team_for(b->device->team, experts, /*chunk=*/1, transpose_experts, &job);
  w->part[0] = memory;
}

/* --- The table ------------------------------------------------------------------------------------------- */

void ie_bind_entries(ie_binder *b, const ie_bind_entry *entries, size_t n, int layer, void *target) {
  for (size_t i = 0; i < n && b->status == IE_OK; i++) {
    const ie_bind_entry *e = &entries[i];
    void *field = (uint8_t *)target + e->field;
    char name[NAME_BYTES], hf[NAME_BYTES];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* the formats are the model's own literals */
    snprintf(name, sizeof name, e->name, layer);
    snprintf(hf, sizeof hf, e->hf ? e->hf : e->name, layer);
#pragma GCC diagnostic pop
    bool linear = (e->kind == IE_BIND_MATRIX || e->kind == IE_BIND_ROWS) && !e->f32 && field != b->lookup;
    if (linear && b->linears && !ie_linear_list_add(b->linears, hf, field, !strstr(e->name, "%d")))
      b->status = ie_error_set(b->error, IE_OUT_OF_MEMORY, "out of memory for %s", name);
    if (b->params) {
      ie_bind_trained(b, e, name, hf, field);
      continue;
    }
    switch (e->kind) {
    case IE_BIND_VECTOR: bind_vector(b, name, b->dims[e->cols], field); break;
    case IE_BIND_MATRIX:
    case IE_BIND_ROWS: bind_rows(b, name, e, field); break;
    case IE_BIND_BIAS:
    case IE_BIND_BIAS_ROWS: bind_bias(b, name, e, field); break;
    case IE_BIND_MXFP4: bind_mxfp4(b, name, e, field); break;
    case IE_BIND_EXPERTS: bind_experts(b, name, e, field); break;
    }
  }
}

void ie_owned_free(ie_device *device, ie_owned *owned) {
  while (owned) {
    ie_owned *next = owned->next;
    device->dealloc(device, owned->memory, owned->bytes);
    free(owned);
    owned = next;
  }
}
