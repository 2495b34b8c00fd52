/* Batches for training: ids from a text or JSONL source, in an order that depends on seed and options alone.
 *
 * A source is tokenised once to an id file (train/id_file.h) beside the output, which is mapped. An epoch visits all
 * documents (or pieces of them) in an order drawn from (seed, epoch); the next epoch follows at once, in another order.
 * The global batch is defined first and process r of n takes its rows, so that the numbers of processes and threads
 * change nothing. Where reading stands is three integers, which a checkpoint keeps; a reader that is set there goes on
 * to the bit.
 *
 * Layouts. A document here is what was tokenised, with the tokens that begin and end it.
 *   IE_DATA_STREAM  documents one after the other, cut every `length` tokens. A row is one sequence, whatever documents
 *                   lie in it, at positions 0 .. length - 1; each token is the target of the one before it.
 *   IE_DATA_PACKED  each document is a sequence of its own with positions from 0; its last token is a target only. A row
 *                   that is full cuts the document: the rest is a new sequence at the start of the next row.
 *   IE_DATA_WHOLE   as packed, but a document that does not fit into what is left of a row starts the next one, and of
 *                   one that is longer than a row the rest is left out. What is left of a row is padding: sequences of
 *                   their own without targets. For conversations.
 *
 * Ownership: a batch points into the reader and is valid until the next call. The tokenizer is borrowed for the call of
 * ie_data_open only. Threads: a reader belongs to one thread at a time. Processes that share a disk open one after the
 * other the first time (process 0, then the rest), or each of them tokenises. */
#ifndef CLOCHER_TRAIN_DATA_H
#define CLOCHER_TRAIN_DATA_H

#include "clocher/chat.h"
#include "clocher/gradients.h"
#include "clocher/tensor.h"
#include "clocher/text.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum ie_data_layout { IE_DATA_STREAM, IE_DATA_PACKED, IE_DATA_WHOLE } ie_data_layout;

/* Called while a source is tokenised, from the calling thread. False stops it: IE_CANCELLED. */
typedef bool (*ie_data_progress)(void *user, uint64_t done_bytes, uint64_t total_bytes);

/* All-zero is the default where a default is named. */
typedef struct ie_data_options {
  /* Where the ids come from: one of two. data_ids is a safetensors file with the tensor `data`, I32 (steps, rows,
   * tokens), used in order, once; nothing below counts with it but tokenizer, rank, ranks, and rows and length where
   * they are not 0. The last token of its rows has no target. */
  const char *path; /* text, *.jsonl, or an id file; see train/id_build.h */
  const char *data_ids;
  /* How a source becomes ids. */
  const ie_tokenizer *tokenizer; /* of the model. NULL only with data_ids */
  const ie_chat_format *format;  /* for rows with "messages"; NULL: such rows are refused */
  const char *cache_dir;         /* folder for the id file, made when missing; NULL: beside the source */
  const char *begin_token;       /* special token before each document of text; NULL or "": none */
  const char *end_token;         /* behind it; "": none; NULL: <|endoftext|> or the like (train/id_build.h) */
  const char *date;              /* YYYY-MM-DD for conversations that show one; NULL: 2025-01-01 */
  int threads;                   /* 0: one a core; results do not depend on it */
  ie_data_progress progress;     /* may be NULL */
  void *user;
  /* How ids become batches. piece_tok: documents are cut into pieces of so many tokens first, and pieces are what is
   * shuffled, so that neighbours in a batch are of different documents; 0: whole documents. once: in the order of the
   * file, once, for validation; what is left of the last batch is padding. */
  ie_data_layout layout;
  int64_t rows;   /* B of the global batch, over all processes */
  int64_t length; /* T: ids in a row */
  int64_t piece_tok;
  uint64_t seed;
  bool once;
  bool
      text_packed; /* IE_DATA_WHOLE is for conversations: a source without masks is packed, so that none of it is lost */
  int rank, ranks; /* this process of how many (0 counts as 1): rows [rank rows / ranks, ...) are its own */
} ie_data_options;

/* The rows of this process. */
typedef struct ie_data_batch {
  int64_t rows, length;       /* rows = 0: the end (once, data_ids), in all processes at the same call */
  const int32_t *ids;         /* (rows, length) */
  const int32_t *targets;     /* (rows, length) the id that follows; -1: no loss there */
  const int32_t *sequence;    /* (rows, length) from 0, ascending by one: tokens attend within theirs */
  const int32_t *position;    /* (rows, length) in the sequence */
  int64_t sequences;          /* how many there are */
  const ie_token_rows *dense; /* the tokens of these rows without their padding, */
  const int64_t *start;       /* (rows + 1) and where each row begins in them */
  int64_t target_count;       /* targets of these rows */
  int64_t global_targets;     /* of the global batch: what its mean loss is divided by */
} ie_data_batch;

/* What is computed for rows first .. first + count - 1: their tokens, not their padding. */
ie_token_rows ie_data_rows(const ie_data_batch *batch, int64_t first, int64_t count);

/* Where the next batch begins. */
typedef struct ie_data_position {
  int64_t epoch;
  int64_t document; /* (or piece) in the epoch's order; data_ids: the step */
  int64_t offset;   /* tokens of it that were used */
} ie_data_position;

typedef struct ie_data_info {
  int64_t documents, tokens; /* of the source, as tokenised */
  int64_t bytes;             /* of the source's documents; data_ids: 0 */
  int64_t target_bytes;      /* of them, without the first token of each document: for bits per byte */
  int64_t epoch_slots;       /* places in rows that an epoch takes (padding of IE_DATA_WHOLE aside) */
  int64_t steps;             /* data_ids: how many there are; else 0 */
  int64_t rows, length;      /* of the global batch */
  bool built;                /* the id file was made by this call */
  bool masked;               /* some tokens are no targets */
  int64_t silent_pieces;     /* masked: documents (or pieces) without a target that a row can hold */
  int64_t cut_documents; /* IE_DATA_WHOLE: longer than a row (pieces, where documents are cut into such), */
  int64_t cut_tokens;    /* and how many tokens of them are left out: in no row, and no target */
  uint64_t checksum;     /* of ids, masks and documents: data with another one are other data */
  const char *id_file;   /* its path, borrowed; data_ids: that path */
} ie_data_info;

typedef struct ie_data ie_data;

/* A file of ids: opens it and checks type, shape and sizes, so that (rows, length) is a batch. rows and length: what is
 * expected, 0 where anything is. Owner of *file: ie_tensor_file_free; *tensor is borrowed from it. IE_FORMAT,
 * IE_INVALID_ARGUMENT: another shape than expected, or more than a batch may hold. */
ie_status ie_data_ids_open(const char *path, int64_t rows, int64_t length, ie_tensor_file **file,
                           const ie_tensor_info **tensor, ie_error *error);
/* Places of a batch, rows * length. IE_INVALID_ARGUMENT when there is none, or they are more than sequences can be
 * numbered. */
ie_status ie_data_places(int64_t rows, int64_t length, size_t *out, ie_error *error);

/* IE_INVALID_ARGUMENT: options that contradict each other; IE_FORMAT: a damaged file, a row that is none, an id file that
 * was made with another tokenizer (never silently made anew), a source without any target; IE_LIMIT: no document has two tokens; IE_IO, IE_CANCELLED. */
ie_status ie_data_open(const ie_data_options *options, ie_data **out, ie_error *error);
void ie_data_free(ie_data *data);

ie_data_info ie_data_get_info(const ie_data *data);

/* The next batch. After the end: rows = 0 again. Cannot fail for want of memory: all of it is taken by open. */
ie_status ie_data_next(ie_data *data, ie_data_batch *out, ie_error *error);

ie_data_position ie_data_get_position(const ie_data *data);
/* Goes on from there. IE_INVALID_ARGUMENT when the data has no such place. */
ie_status ie_data_seek(ie_data *data, ie_data_position position, ie_error *error);

#endif
