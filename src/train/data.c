#include "train/data.h"

#include "base/rng.h"
#include "base/size.h"
#include "clocher/tensor.h"
#include "train/id_build.h"

#include <stdlib.h>
#include <string.h>

/* What is shuffled: a document, or piece_tok tokens of one and the token behind them, which is their last target. */
typedef struct piece {
  int64_t start, count; /* tokens of the id file */
} piece;

struct ie_data {
  ie_map map;
  ie_id_file file;
  ie_tensor_file *tensors; /* data_ids */
  const int32_t *given;    /* (steps, rows, length) of data_ids, or NULL */
  char *path;              /* of the id file */
  ie_data_info info;
  ie_data_layout layout;
  int64_t piece_tok, pieces;
  int64_t *piece_first; /* (documents + 1) the first piece of each document; NULL: pieces are documents */
  uint64_t seed;
  bool once;
  int64_t row_first, row_count; /* of this process */
  ie_data_position position;
  piece current;                             /* at position */
  int32_t *memory;                           /* of the four below */
  int32_t *ids, *targets, *sequence, *place; /* (rows, length) of the global batch */
};

/* ---- the order of an epoch ---- */

/* A permutation of [0, n) as a function of (seed, epoch, i), so that no order is ever held: a Feistel network over the
 * next even number of bits, walked until it falls below n again (Black and Rogaway 2002). */
static int64_t order_get(uint64_t seed, int64_t epoch, int64_t n, int64_t i) {
  enum { ROUNDS = 6 };
  static const uint64_t purpose = 0x646174616F726465u; /* apart from other uses of the seed */
  unsigned half = 1;
  while (half < 31 && (int64_t)1 << (2 * half) < n) half++;
  uint64_t mask = ((uint64_t)1 << half) - 1, x = (uint64_t)i;
  do {
    uint64_t left = x >> half, right = x & mask;
    for (int round = 0; round < ROUNDS; round++) {
      uint64_t stream = (uint64_t)epoch * ROUNDS + (uint64_t)round;
      uint64_t mixed = left ^ (ie_rng_u64(seed ^ purpose, stream, right) & mask);
      left = right;
      right = mixed;
    }
    x = left << half | right;
  } while (x >= (uint64_t)n);
  return (int64_t)x;
}

static piece piece_at(const ie_data *d, int64_t p) {
  const uint64_t *index = d->file.index;
  if (!d->piece_first) return (piece){(int64_t)index[p], (int64_t)(index[p + 1] - index[p])};
  int64_t low = 0, high = d->info.documents; /* the last document whose first piece is not after p */
  while (high - low > 1) {
    int64_t middle = low + (high - low) / 2;
    if (d->piece_first[middle] <= p)
      low = middle;
    else
      high = middle;
  }
  int64_t start = (int64_t)index[low] + (p - d->piece_first[low]) * d->piece_tok;
  return (piece){start, ie_min_i64(d->piece_tok + 1, (int64_t)index[low + 1] - start)};
}

static bool at_end(const ie_data *d) {
  return d->position.document >= d->pieces;
}

static void piece_load(ie_data *d) {
  if (at_end(d)) return;
  int64_t i = d->position.document;
  d->current = piece_at(d, d->once ? i : order_get(d->seed, d->position.epoch, d->pieces, i));
}

/* The next piece; behind the last one stands the next epoch, or (once) the end. */
static void piece_next(ie_data *d) {
  d->position.offset = 0;
  d->position.document++;
  if (at_end(d) && !d->once) {
    d->position.epoch++;
    d->position.document = 0;
  }
  piece_load(d);
}

/* ---- rows ---- */

/* One row that is being filled. */
typedef struct row {
  int64_t at, length;
  int32_t *ids, *targets, *sequence, *place;
  int32_t *number; /* the sequence that was begun last */
  int32_t next;    /* its next position */
} row;

static void row_sequence(row *r) {
  ++*r->number;
  r->next = 0;
}

static void row_put(row *r, int32_t id, int32_t target) {
  r->ids[r->at] = id;
  r->targets[r->at] = target;
  r->sequence[r->at] = *r->number;
  r->place[r->at++] = r->next++;
}

static void row_pad(row *r) {
  if (r->at < r->length) row_sequence(r);
  while (r->at < r->length) row_put(r, 0, -1);
}

static int32_t target_at(const ie_data *d, int64_t token) {
  return ie_id_file_is_target(&d->file, token) ? ie_id_file_token(&d->file, token) : -1;
}

static void row_stream(ie_data *d, row *r) {
  if (!at_end(d)) row_sequence(r);
  while (r->at < r->length && !at_end(d)) {
    int32_t id = ie_id_file_token(&d->file, d->current.start + d->position.offset);
    if (++d->position.offset == d->current.count) piece_next(d);
    row_put(r, id, at_end(d) ? -1 : target_at(d, d->current.start + d->position.offset));
  }
}

static void row_packed(ie_data *d, row *r) {
  while (r->at < r->length && !at_end(d)) {
    int64_t slots = d->current.count - 1 - d->position.offset;
    int64_t n = ie_min_i64(slots, r->length - r->at);
    bool whole = d->layout == IE_DATA_WHOLE;
    if (whole && n < slots && r->at > 0) break;
    if (n > 0) row_sequence(r);
    for (int64_t i = 0; i < n; i++) {
      int64_t token = d->current.start + d->position.offset++;
      row_put(r, ie_id_file_token(&d->file, token), target_at(d, token + 1));
    }
    if (n == slots || whole) piece_next(d);
  }
}

static void batch_fill(ie_data *d) {
  int64_t T = d->info.length;
  int32_t number = -1;
  for (int64_t b = 0; b < d->info.rows; b++) {
    row r = {.length = T,
             .ids = d->ids + b * T,
             .targets = d->targets + b * T,
             .sequence = d->sequence + b * T,
             .place = d->place + b * T,
             .number = &number};
    if (d->given) {
      const int32_t *ids = d->given + (d->position.document * d->info.rows + b) * T;
      row_sequence(&r);
      for (int64_t i = 0; i < T; i++) row_put(&r, ids[i], i + 1 < T ? ids[i + 1] : -1);
    } else if (d->layout == IE_DATA_STREAM) {
      row_stream(d, &r);
    } else {
      row_packed(d, &r);
    }
    row_pad(&r);
  }
  if (d->given) d->position.document++;
}

/* Sequences of the rows of this process are numbered from 0. */
static int64_t sequences_renumber(ie_data *d) {
  int32_t *sequence = d->sequence + d->row_first * d->info.length, first = sequence[0];
  int64_t n = d->row_count * d->info.length;
  for (int64_t i = 0; i < n; i++) sequence[i] -= first;
  return sequence[n - 1] + 1;
}

static int64_t targets_count(const int32_t *targets, int64_t n) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; i++) count += targets[i] >= 0;
  return count;
}

ie_status ie_data_next(ie_data *d, ie_data_batch *out, ie_error *error) {
  (void)error;
  int64_t T = d->info.length, first = d->row_first * T, n = d->row_count * T;
  *out = (ie_data_batch){.length = T};
  if (at_end(d)) return IE_OK;
  batch_fill(d);
  out->rows = d->row_count;
  out->ids = d->ids + first;
  out->targets = d->targets + first;
  out->sequence = d->sequence + first;
  out->position = d->place + first;
  out->sequences = sequences_renumber(d);
  out->target_count = targets_count(out->targets, n);
  out->global_targets = targets_count(d->targets, d->info.rows * T);
  return IE_OK;
}

/* ---- where it stands ---- */

ie_data_position ie_data_get_position(const ie_data *d) {
  return d->position;
}

ie_status ie_data_seek(ie_data *d, ie_data_position p, ie_error *error) {
  bool end = p.document == d->pieces && p.offset == 0 && d->once && p.epoch == 0;
  bool ok = p.document >= 0 && p.document < d->pieces && p.offset >= 0 && p.epoch >= 0 &&
            (!d->once || p.epoch == 0);
  ie_data_position before = d->position;
  piece current = d->current;
  d->position = p;
  if (ok && !d->given) {
    piece_load(d);
    ok = p.offset < d->current.count;
  } else if (ok) {
    ok = p.offset == 0;
  }
  if (ok || end) return IE_OK;
  d->position = before;
  d->current = current;
  return ie_error_set(error, IE_INVALID_ARGUMENT,
                      "%s: no place at epoch %lld, document %lld, offset %lld: the data are of another run",
                      d->info.id_file, (long long)p.epoch, (long long)p.document, (long long)p.offset);
}

/* ---- opening ---- */

static ie_status options_check(const ie_data_options *o, ie_error *error) {
  if (!o->path == !o->data_ids)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "data: expected a source or a file of ids, one of two");
  if (o->path && !o->tokenizer)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "%s: a tokenizer is needed", o->path);
  if (o->rows < (o->path ? 1 : 0) || o->length < (o->path ? 1 : 0) || o->piece_tok < 0 || o->ranks < 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "data: expected at least one row of one token, found %lld of %lld",
                        (long long)o->rows, (long long)o->length);
  if (o->path && o->layout == IE_DATA_STREAM && o->piece_tok)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "data: pieces of documents cannot follow each other in a stream: pack them");
  return IE_OK;
}

/* data_ids: I32 (steps, rows, length). */
static ie_status given_open(ie_data *d, const ie_data_options *o, ie_error *error) {
  ie_status status = ie_tensor_file_open(o->data_ids, &d->tensors, error);
  if (status != IE_OK) return status;
  const ie_tensor_info *t = ie_tensor_file_get(d->tensors, "data");
  if (!t || t->dtype != IE_I32 || t->rank != 3 || t->shape[1] < 1 || t->shape[2] < 2 ||
      (uintptr_t)t->data % sizeof *d->given)
    return ie_error_set(error, IE_FORMAT, "%s: expected a tensor data, I32 (steps, rows, tokens)",
                        o->data_ids);
  if ((o->rows && o->rows != t->shape[1]) || (o->length && o->length != t->shape[2]))
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "%s: its steps are %lld rows of %lld tokens, %lld rows of %lld were asked for",
                        o->data_ids, (long long)t->shape[1], (long long)t->shape[2], (long long)o->rows,
                        (long long)(o->length ? o->length : t->shape[2]));
  d->given = t->data;
  for (size_t i = 0; i < t->bytes / sizeof *d->given; i++)
    if (d->given[i] < 0 || (o->tokenizer && d->given[i] >= ie_tokenizer_vocab(o->tokenizer)))
      return ie_error_set(error, IE_FORMAT, "%s: it holds the id %d", o->data_ids, d->given[i]);
  d->info.rows = t->shape[1];
  d->info.length = t->shape[2];
  d->info.steps = d->pieces = t->shape[0];
  d->info.tokens = t->shape[0] * t->shape[1] * t->shape[2];
  d->info.epoch_slots = d->info.tokens;
  d->once = true;
  return IE_OK;
}

/* Cuts documents: piece k of one has the tokens from k piece_tok on. */
static ie_status pieces_make(ie_data *d, ie_error *error) {
  const uint64_t *index = d->file.index;
  d->pieces = d->info.documents;
  if (!d->piece_tok) return IE_OK;
  size_t bytes;
  bool fits = ie_size_mul((size_t)d->info.documents + 1, sizeof *d->piece_first, &bytes);
  d->piece_first = fits ? malloc(bytes) : NULL;
  if (!d->piece_first)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for its documents", d->path);
  d->piece_first[0] = 0;
  for (int64_t i = 0; i < d->info.documents; i++) {
    int64_t slots = (int64_t)(index[i + 1] - index[i]) - 1;
    d->piece_first[i + 1] = d->piece_first[i] + ie_max_i64(1, ie_div_up(slots, d->piece_tok));
  }
  d->pieces = d->piece_first[d->info.documents];
  return IE_OK;
}

static int64_t slots_count(const ie_data *d) {
  if (d->layout == IE_DATA_STREAM) return d->info.tokens;
  if (d->layout == IE_DATA_PACKED) return d->info.tokens - d->info.documents;
  int64_t slots = 0;
  for (int64_t p = 0; p < d->pieces; p++) slots += ie_min_i64(piece_at(d, p).count - 1, d->info.length);
  return slots;
}

static ie_status source_open(ie_data *d, const ie_data_options *o, ie_error *error) {
  ie_status status = ie_id_build(o, &d->map, &d->file, &d->info.built, error);
  if (status != IE_OK) return status;
  d->path = strdup(d->map.path);
  if (!d->path) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", o->path);
  const ie_id_header *h = d->file.header;
  d->layout = o->layout;
  d->piece_tok = o->piece_tok;
  d->seed = o->seed;
  d->once = o->once;
  d->info.rows = o->rows;
  d->info.length = o->length;
  d->info.documents = (int64_t)h->documents;
  d->info.tokens = (int64_t)h->tokens;
  d->info.bytes = (int64_t)h->bytes;
  d->info.masked = d->file.mask != NULL;
  status = pieces_make(d, error);
  if (status != IE_OK) return status;
  d->info.epoch_slots = slots_count(d);
  if (d->info.tokens < 2 || d->info.epoch_slots < 1)
    return ie_error_set(error, IE_LIMIT, "%s: expected a document of at least two tokens, found %lld in %lld",
                        o->path, (long long)d->info.tokens, (long long)d->info.documents);
  return IE_OK;
}

static ie_status batch_make(ie_data *d, const ie_data_options *o, ie_error *error) {
  int64_t ranks = o->ranks ? o->ranks : 1;
  if (o->rank < 0 || o->rank >= ranks || d->info.rows < ranks)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "data: process %d of %lld: expected at least one row for each, found %lld rows",
                        o->rank, (long long)ranks, (long long)d->info.rows);
  d->row_first = o->rank * d->info.rows / ranks;
  d->row_count = (o->rank + 1) * d->info.rows / ranks - d->row_first;
  size_t places, bytes;
  if (!ie_size_mul((size_t)d->info.rows, (size_t)d->info.length, &places) || places > INT32_MAX ||
      !ie_size_mul(places, 4 * sizeof *d->memory, &bytes))
    return ie_error_set(error, IE_INVALID_ARGUMENT, "data: %lld rows of %lld tokens are too many",
                        (long long)d->info.rows, (long long)d->info.length);
  d->memory = malloc(bytes);
  if (!d->memory)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "data: out of memory for %lld rows of %lld tokens",
                        (long long)d->info.rows, (long long)d->info.length);
  d->ids = d->memory;
  d->targets = d->ids + places;
  d->sequence = d->targets + places;
  d->place = d->sequence + places;
  return IE_OK;
}

ie_status ie_data_open(const ie_data_options *options, ie_data **out, ie_error *error) {
  *out = NULL;
  ie_status status = options_check(options, error);
  if (status != IE_OK) return status;
  ie_data *d = calloc(1, sizeof *d);
  if (!d) return ie_error_set(error, IE_OUT_OF_MEMORY, "data: out of memory");
  if (options->data_ids) {
    d->path = strdup(options->data_ids);
    status = d->path ? given_open(d, options, error)
                     : ie_error_set(error, IE_OUT_OF_MEMORY, "data: out of memory");
  } else {
    status = source_open(d, options, error);
  }
  if (status == IE_OK) status = batch_make(d, options, error);
  if (status != IE_OK) {
    ie_data_free(d);
    return status;
  }
  d->info.id_file = d->path;
  if (!d->given) piece_load(d);
  *out = d;
  return IE_OK;
}

void ie_data_free(ie_data *d) {
  if (!d) return;
  ie_tensor_file_free(d->tensors);
  ie_map_close(&d->map);
  free(d->path);
  free(d->piece_first);
  free(d->memory);
  free(d);
}

ie_data_info ie_data_get_info(const ie_data *d) {
  return d->info;
}
