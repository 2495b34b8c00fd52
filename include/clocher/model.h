/* Models: a checkpoint directory bound to a device, ready to compute.
 *
 * A directory holds config.json and weights in a published layout (Hugging Face safetensors or PyTorch's .bin,
 * OpenAI's original gpt-oss layout, nanochat's own files, IEBIN v1), in DIR, DIR/hf, DIR/hf/original or DIR/original.
 * Weights are mapped and computed where they lie (docs/formats.md).
 *
 * Ownership: a model borrows its device and is freed before it. States borrow the model.
 * Thread safety: read-only after open; but its device runs one operation at a time. */
#ifndef CLOCHER_MODEL_H
#define CLOCHER_MODEL_H

#include "clocher/device.h"
#include "clocher/tensor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct ie_model ie_model;

/* How the dense matrices (attention projections, dense MLPs, the output matrix) are held. Quantised: encoded at load
 * into memory of their own, symmetric groups with f16 scales (docs/formats.md); the embedding, norms, biases, sinks,
 * routers and stacks of experts stay as published. */
typedef enum ie_weights {
  IE_WEIGHTS_PUBLISHED, /* where they lie in the file */
  IE_WEIGHTS_INT8,      /* 8 bits, groups of 32: 8.5 bits a weight */
  IE_WEIGHTS_INT4       /* 4 bits, groups of 64: 4.25 bits a weight */
} ie_weights;

typedef struct ie_model_options {
  ie_precision precision;
  ie_weights dense_weights;
  bool
      deterministic; /* logits equal to the bit for any chunk size, batch and number of threads: every product uses
                         kernels whose rows do not depend on how many rows are computed together. Costs the
                         matrix units in prefill, but for quantised weights in class int8 */
  bool
      plan_only; /* bind for ie_model_plan alone: nothing is transposed or copied, and nothing can be computed */
  bool
      limited; /* ie_model_place will follow with a limit: what loading reads for the last time (weights that are
                    quantised) leaves the page cache, which a memory cgroup counts, tensor by tensor */
  bool train;    /* every parameter gets an f32 master (clocher/train.h), with which inference computes too */
  bool create;   /* with train: dir has a config.json alone, and the parameters are made from seed */
  uint64_t seed; /* of create */
  /* Paths of the two files of an IEBIN v1 model. One is enough: NULL is DIR/model.ie.json, and the file that the JSON
   * names. Both NULL: the directory is searched. */
  const char *iebin_json, *iebin_bin;
} ie_model_options;

/* Opens, checks and binds a model. options may be NULL (bf16). IE_FORMAT names the file, tensor or key at fault;
 * IE_UNSUPPORTED an architecture that is not built. */
ie_status ie_model_open(ie_device *device, const char *dir, const ie_model_options *options, ie_model **out,
                        ie_error *error);
/* Whether dir holds anything of a model's weights, whole or not: what by its name is a file of weights, their index or
 * model.ie.json, in any folder that is searched. False: there is no model, which is another thing than one that
 * ie_model_open refuses. IE_IO: a folder cannot be read. */
ie_status ie_model_present(const char *dir, bool *present, ie_error *error);
void ie_model_free(ie_model *model);

enum { IE_STOP_IDS_MAX = 16 };

/* What a model is. Strings are borrowed from it. */
typedef struct ie_model_info {
  const char *architecture; /* "gpt-oss" */
  const char *chat_format;  /* the architecture's own: "harmony"; NULL: none */
  const char *layout;       /* "hf", "original", "native" or "iebin" */
  const char *weights;      /* encodings, such as "mxfp4+bf16" */
  const char *dir;          /* folder of the weights */
  ie_precision precision;
  ie_weights dense_weights;
  bool deterministic;
  int64_t parameters, active_parameters; /* active: used for one token */
  size_t weights_bytes;                  /* of all tensors of the checkpoint that the model uses */
  size_t weights_copied_bytes;           /* in memory of their own: transposed or quantised at load */
  size_t
      weights_replaced_bytes; /* of weights_bytes, what was quantised: read once, then only the rows that are looked
                                    up of an embedding that is the output matrix too */
  int64_t layers, width, vocab, context_tok; /* context: the largest number of positions */
  int stop_count;
  int32_t stop_ids[IE_STOP_IDS_MAX]; /* of generation_config.json or config.json */
} ie_model_info;

const ie_model_info *ie_model_describe(const ie_model *model);

/* The files of weights, 0 <= i < count: path and size. Borrowed. */
size_t ie_model_file_count(const ie_model *model);
const char *ie_model_file(const ie_model *model, size_t i, size_t *bytes);

/* --- Inspecting a directory ------------------------------------------------------------------------------ */

typedef enum ie_problem_level { IE_PROBLEM_WARNING, IE_PROBLEM_ERROR } ie_problem_level;

typedef struct ie_problem {
  ie_problem_level level;
  char where[256]; /* file, tensor or key */
  char what[512];
} ie_problem;

typedef struct ie_inspection ie_inspection;

/* Looks at a directory without computing anything: never fails because of what it finds, only when memory is out
 * or the directory itself cannot be read. */
ie_status ie_inspect_open(const char *dir, ie_inspection **out, ie_error *error);
void ie_inspect_free(ie_inspection *inspection);
/* Fields that could not be found out are NULL or 0. */
const ie_model_info *ie_inspect_info(const ie_inspection *inspection);
size_t ie_inspect_tensor_count(const ie_inspection *inspection);
const ie_tensor_info *ie_inspect_tensor(const ie_inspection *inspection, size_t i);
size_t ie_inspect_problem_count(const ie_inspection *inspection);
const ie_problem *ie_inspect_problem(const ie_inspection *inspection, size_t i);

/* --- Planning memory ------------------------------------------------------------------------------------- */

enum { IE_ROLLBACK_DEFAULT_TOK = 4096 };

/* What a state (clocher/generate.h) is to hold; its memory follows from it. */
typedef struct ie_state_options {
  int64_t context_tok;  /* positions per sequence; 0: the model's own context, at most 4096 */
  int64_t sequences;    /* 0: 1 */
  int64_t chunk_tok;    /* prompt tokens per forward, of all sequences together; 0: 512 */
  int64_t rollback_tok; /* how far windowed layers can go back; 0: IE_ROLLBACK_DEFAULT_TOK; -1: not at all */
  /* IE_F32, IE_F16, IE_BF16, IE_I8; IE_DTYPE_NONE: f32 for class fp32, else f16. In int8, keys are quantised per channel
   * over groups of 64 positions and values per position once their group is whole; a query reads its own group, and layers
   * with a window all of theirs, in the type that IE_DTYPE_NONE means (docs/DESIGN.md). */
  ie_dtype kv;
  /* Most positions with logits in one forward, never fewer than sequences; 0: as many as 64 MiB hold. */
  int64_t logits_tok;
} ie_state_options;

typedef struct ie_plan_options {
  ie_state_options state;
  size_t memory_bytes; /* limit; 0: none */
} ie_plan_options;

enum { IE_PLAN_PLACES = 8 };

typedef struct ie_plan_place {
  char tensors[64];  /* "experts", "attention", ... */
  const char *where; /* "map", "ram", "disk" or "gpu" */
  size_t bytes;
} ie_plan_place;

/* Bytes before anything is loaded. peak = resident weights + kv + scratch + other. */
typedef struct ie_plan {
  size_t weights_bytes, resident_weights_bytes, kv_bytes, scratch_bytes, other_bytes, peak_bytes,
      minimum_bytes;
  size_t
      limit_bytes; /* memory_bytes, at most the machine's memory, or less where a control group has a limit */
  bool fits;       /* peak <= limit_bytes */
  /* Of experts and embedding that are read from disk for each token when the cache finds nothing; 0 while all weights
   * are resident. */
  size_t streamed_bytes_per_tok;
  int places;
  ie_plan_place place[IE_PLAN_PLACES];
} ie_plan;

ie_status ie_model_plan(const ie_model *model, const ie_plan_options *options, ie_plan *out, ie_error *error);

/* --- A memory limit -------------------------------------------------------------------------------------- */

/* Brings the weights where ie_model_plan with the same options says; call it once, after ie_model_open and before a
 * state of this context, sequences, chunk and type is made. Without a limit nothing happens: weights are mapped. Under
 * options->memory_bytes what does not fit is read from disk while it is needed (experts, the embedding's rows), what
 * remains is copied into memory past the page cache, and states take all their memory when they are made. The answers
 * are the same to the bit. IE_LIMIT, with the least limit that would do, before anything is loaded. After another
 * failure the model can only be freed. */
ie_status ie_model_place(ie_model *model, const ie_plan_options *options, ie_error *error);

/* What was read from disk since then. */
typedef struct ie_stream_stats {
  bool streamed;      /* false: all weights are resident, and all else is 0 */
  bool direct, uring; /* past the page cache; by io_uring (else by threads) */
  int64_t slots;      /* experts that fit memory at a time */
  size_t slot_bytes;
  uint64_t hits, misses;            /* experts that a forward needed: in memory, or to be read */
  uint64_t expected, expected_used; /* misses that were guessed before the router spoke, and guessed right */
  uint64_t read_bytes, vain_bytes;  /* vain: of them, for experts that were guessed and not used so far */
  double read_s, wait_s; /* while reads were under way; while nothing could be computed for want of them */
} ie_stream_stats;
void ie_model_stream_stats(const ie_model *model, ie_stream_stats *out);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
