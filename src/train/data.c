#include "train/data.h"

#include "base/rng.h"
#include "base/size.h"
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
  int32_t *memory;                           /* of the arrays below */
  int32_t *ids, *targets, *sequence, *place; /* (rows, length) of the global batch */
  int32_t *packed;                           /* (4, rows, length) the same of this process without padding */
  int64_t *start;                            /* (rows + 1) where its rows begin there */
  ie_token_rows dense;
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
  int64_t used;    /* places before the padding */
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
  r->used = r->at;
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
    int64_t own = b - d->row_first;
    if (own >= 0 && own < d->row_count) d->start[own + 1] = r.used;
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

/* The arrays of this process's rows, or copies of them where rows have padding. */
static void dense_make(ie_data *d, const ie_data_batch *b) {
  int64_t T = b->length, places = d->info.rows * T, tokens = 0;
  const int32_t *from[] = {b->ids, b->targets, b->position, b->sequence}, *arrays[4];
  for (int64_t r = 0; r < b->rows; r++) tokens += d->start[r + 1];
  for (int i = 0; i < 4; i++) {
    int32_t *to = d->packed + i * places;
    int64_t at = 0;
    arrays[i] = tokens == b->rows * T ? from[i] : to;
    for (int64_t r = 0; arrays[i] == to && r < b->rows; at += d->start[++r])
      memcpy(to + at, from[i] + r * T, (size_t)d->start[r + 1] * sizeof *to);
  }
  d->start[0] = 0;
  for (int64_t r = 0; r < b->rows; r++) d->start[r + 1] += d->start[r];
  d->dense = (ie_token_rows){
      .tokens = tokens, .ids = arrays[0], .target = arrays[1], .position = arrays[2], .sequence = arrays[3]};
}

ie_token_rows ie_data_rows(const ie_data_batch *b, int64_t first, int64_t count) {
  const ie_token_rows *d = b->dense;
  int64_t at = b->start[first];
  return (ie_token_rows){.tokens = b->start[first + count] - at,
                         .ids = d->ids + at,
                         .target = d->target + at,
                         .position = d->position + at,
                         .sequence = d->sequence + at};
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
  dense_make(d, out);
  out->dense = &d->dense;
  out->start = d->start;
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

ie_status ie_data_places(int64_t rows, int64_t length, size_t *out, ie_error *error) {
  if (rows >= 1 && length >= 1 && ie_size_mul((size_t)rows, (size_t)length, out) && *out <= INT32_MAX)
    return IE_OK;
  return ie_error_set(error, IE_INVALID_ARGUMENT, "data: %lld rows of %lld tokens, expected 1 to %d in all",
                      (long long)rows, (long long)length, INT32_MAX);
}

static ie_status ids_check(const char *path, const ie_tensor_info *t, int64_t rows, int64_t length,
                           ie_error *error) {
  if (!t || t->dtype != IE_I32 || t->rank != 3 || t->shape[1] < 1 || t->shape[2] < 2 ||
      (uintptr_t)t->data % sizeof(int32_t))
    return ie_error_set(error, IE_FORMAT, "%s: expected a tensor data, I32 (steps, rows, tokens)", path);
  if ((rows && rows != t->shape[1]) || (length && length != t->shape[2]))
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "%s: its steps are %lld rows of %lld tokens, %lld rows of %lld were asked for", path,
                        (long long)t->shape[1], (long long)t->shape[2],
                        (long long)(rows ? rows : t->shape[1]), (long long)(length ? length : t->shape[2]));
  size_t places;
  return ie_data_places(t->shape[1], t->shape[2], &places, error);
}

ie_status ie_data_ids_open(const char *path, int64_t rows, int64_t length, ie_tensor_file **file,
                           const ie_tensor_info **tensor, ie_error *error) {
  *tensor = NULL;
  ie_status status = ie_tensor_file_open(path, file, error);
  if (status != IE_OK) return status;
  const ie_tensor_info *t = ie_tensor_file_get(*file, "data");
  status = ids_check(path, t, rows, length, error);
  if (status == IE_OK) {
    *tensor = t;
    return IE_OK;
  }
  ie_tensor_file_free(*file);
  *file = NULL;
  return status;
}

static uint64_t given_sum(const ie_tensor_info *t) {
  uint64_t sum = ie_id_sum_words(0, t->shape, 3 * sizeof *t->shape), rest = 0;
  size_t whole = t->bytes / sizeof rest * sizeof rest;
  sum = ie_id_sum_words(sum, t->data, whole);
  if (whole < t->bytes) memcpy(&rest, (const uint8_t *)t->data + whole, t->bytes - whole);
  return ie_id_sum_words(sum, &rest, sizeof rest);
}

/* data_ids: I32 (steps, rows, length). */
static ie_status given_open(ie_data *d, const ie_data_options *o, ie_error *error) {
  const ie_tensor_info *t;
  ie_status status = ie_data_ids_open(o->data_ids, o->rows, o->length, &d->tensors, &t, error);
  if (status != IE_OK) return status;
  d->given = t->data;
  for (size_t i = 0; i < t->bytes / sizeof *d->given; i++)
    if (d->given[i] < 0 || (o->tokenizer && d->given[i] >= ie_tokenizer_vocab(o->tokenizer)))
      return ie_error_set(error, IE_FORMAT, "%s: it holds the id %d", o->data_ids, d->given[i]);
  d->info.rows = t->shape[1];
  d->info.length = t->shape[2];
  d->info.steps = d->pieces = t->shape[0];
  d->info.tokens = t->shape[0] * t->shape[1] * t->shape[2];
  d->info.epoch_slots = d->info.tokens;
  d->info.checksum = given_sum(t);
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

/* What an epoch has, and what it leaves out. */
static void slots_count(ie_data *d) {
  ie_data_info *info = &d->info;
  info->epoch_slots = d->layout == IE_DATA_STREAM ? info->tokens : info->tokens - info->documents;
  if (d->layout != IE_DATA_WHOLE) return;
  for (int64_t p = 0; p < d->pieces; p++) {
    int64_t beyond = piece_at(d, p).count - 1 - info->length;
    if (beyond <= 0) continue;
    info->cut_documents++;
    info->cut_tokens += beyond;
  }
  info->epoch_slots -= info->cut_tokens;
}

/* Whether some token is no target. A file of rows has a mask also where each of them is text. */
static bool is_masked(const ie_id_file *file) {
  int64_t tokens = (int64_t)file->header->tokens;
  for (int64_t i = 0; file->mask && i < tokens; i++)
    if (!ie_id_file_is_target(file, i)) return true;
  return false;
}

/* Bytes of the first tokens, which nothing predicts. Theirs are the text's unless a normaliser changed it. */
static int64_t first_bytes(const ie_data *d, const ie_tokenizer *tokenizer) {
  int64_t sum = 0;
  for (int64_t i = 0; i < d->info.documents; i++) {
    size_t size;
    bool special; /* it was put before the text */
    if (d->file.index[i] == d->file.index[i + 1]) continue;
    int32_t first = ie_id_file_token(&d->file, (int64_t)d->file.index[i]);
    if (ie_tokenizer_token(tokenizer, first, &size, &special) && !special) sum += (int64_t)size;
  }
  return sum;
}

/* Counts pieces without a target that a row can hold. False when all are. */
static bool targets_find(ie_data *d) {
  ie_data_info *info = &d->info;
  bool found = !info->masked;
  for (int64_t p = 0; p < d->pieces && info->masked; p++) {
    const piece at = piece_at(d, p);
    int64_t end = d->layout == IE_DATA_WHOLE ? ie_min_i64(at.count, info->length + 1) : at.count, i = 1;
    while (i < end && !ie_id_file_is_target(&d->file, at.start + i)) i++;
    found = found || i < end;
    info->silent_pieces += i >= end;
  }
  return found;
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
  d->info.target_bytes = ie_max_i64(0, d->info.bytes - first_bytes(d, o->tokenizer));
  d->info.checksum = h->checksum;
  d->info.masked = is_masked(&d->file);
  if (o->text_packed && !d->info.masked && d->layout == IE_DATA_WHOLE) d->layout = IE_DATA_PACKED;
  status = pieces_make(d, error);
  if (status != IE_OK) return status;
  slots_count(d);
  if (d->info.tokens < 2 || d->info.epoch_slots < 1)
    return ie_error_set(error, IE_LIMIT, "%s: expected a document of at least two tokens, found %lld in %lld",
                        o->path, (long long)d->info.tokens, (long long)d->info.documents);
  if (!targets_find(d))
    return ie_error_set(
        error, IE_FORMAT,
        "%s: no token of the data is a target within its row: of conversations what the assistant "
        "says is learned, of prompts the completion, found none in %lld documents and rows of %lld "
        "tokens",
        o->path, (long long)d->info.documents, (long long)d->info.length);
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
  size_t places = 0;
  ie_status status = ie_data_places(d->info.rows, d->info.length, &places, error);
  if (status != IE_OK) return status;
  d->memory = malloc(places * 8 * sizeof *d->memory);
  d->start = calloc((size_t)d->row_count + 1, sizeof *d->start);
  if (!d->memory || !d->start)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "data: out of memory for %lld rows of %lld tokens",
                        (long long)d->info.rows, (long long)d->info.length);
  d->ids = d->memory;
  d->targets = d->ids + places;
  d->sequence = d->targets + places;
  d->place = d->sequence + places;
  d->packed = d->place + places;
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
  free(d->start);
  free(d);
}

ie_data_info ie_data_get_info(const ie_data *d) {
  return d->info;
}
