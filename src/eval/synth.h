/* Inside of synth: what is written (the plan) apart from how (synth.c).
 *
 * A plan lists the tensors of a checkpoint in the order in which they are written, each with its distribution, and
 * the small files beside them. Building it takes no random number and touches no disk. */
#ifndef CLOCHER_EVAL_SYNTH_H
#define CLOCHER_EVAL_SYNTH_H

#include "base/buf.h"
#include "clocher/synth.h"
#include "clocher/tensor.h"

/* How the elements of a tensor are drawn. */
typedef enum synth_kind {
  SYNTH_NORMAL,       /* mean + std * N(0, 1), as f16 or bf16 */
  SYNTH_MXFP4_BLOCKS, /* U8: two E2M1 codes of N(0, synth_block_std) each */
  SYNTH_MXFP4_SCALES, /* U8: E8M0 scales, 2^-8 to 2^-5, most of them 2^-7 */
  SYNTH_CAUSAL,       /* BOOL (1, 1, n, n): the lower triangle, a buffer that GPT-NeoX files carry */
  SYNTH_CONSTANT,     /* F32: mean */
  SYNTH_ROPE          /* F32 (n): 10000^(-i/n), GPT-NeoX's buffer of inverse frequencies */
} synth_kind;

/* Codes in units of the block's scale: 0.02 where the scale is 2^-7. The largest of 32 is then near the largest
 * code, 6, as it is in real files. */
static const double synth_block_std = 2.56;

typedef struct synth_draw {
  synth_kind kind;
  float mean, std;
} synth_draw;

/* A run of elements that is drawn from one stream: a tensor that another layout stores in pieces (q, k, v) has one
 * for each, so that both layouts hold the same numbers. */
typedef struct synth_part {
  uint64_t stream;
  int64_t elements;
} synth_part;

enum { SYNTH_MAX_PARTS = 3 };

typedef struct synth_tensor {
  ie_tensor_out out; /* name is owned; data is NULL */
  synth_draw draw;
  synth_part parts[SYNTH_MAX_PARTS];
  int part_count;
  size_t bytes;
  size_t file; /* index of the file that holds it */
} synth_tensor;

typedef struct synth_plan {
  synth_tensor *tensors; /* (count), those of one file in a row */
  size_t count, capacity;
  size_t file_count;
  bool original;           /* OpenAI's layout */
  int first_shard;         /* 0 or 1: the number of the first of several shards */
  uint64_t max_file_bytes; /* where a new shard begins */
  uint64_t total_bytes;
  ie_buf config;            /* config.json */
  ie_buf generation_config; /* generation_config.json */
  bool failed;              /* memory ran out */
} synth_plan;

/* The shapes of the architectures. */
typedef struct synth_model {
  const char *name;   /* "gpt-oss-20b" */
  const char *family; /* "gpt_oss" "gpt_neox" "qwen3" "llama" */
  int layers;
  int64_t hidden, intermediate, vocab;
  int64_t heads, kv_heads, head_dim;
  int64_t experts;
  int64_t max_shard_mb, original_shard_mb; /* of a file, in the layouts hf and original */
} synth_model;

/* Each fills *plan, which ie_synth_plan_free releases in any case: for the named model, or for one of any shape. */
ie_status ie_synth_plan_make(const ie_synth_options *options, synth_plan *plan, ie_error *error);
ie_status ie_synth_plan_build(const synth_model *model, bool original, synth_plan *plan, ie_error *error);
/* Writes what a plan says to options->dir (arch, layout and layers are not read). */
ie_status ie_synth_plan_write(const synth_plan *plan, const ie_synth_options *options, ie_error *error);
void ie_synth_plan_free(synth_plan *plan);

/* "model.safetensors", or "model-00001-of-00003.safetensors". */
void ie_synth_file_name(const synth_plan *plan, size_t file, char *out, size_t room);
/* model.safetensors.index.json; empty for a single file. */
ie_status ie_synth_index_make(const synth_plan *plan, ie_buf *out, ie_error *error);

/* config.json and generation_config.json as published, with model->layers layers. */
void ie_synth_config_make(const synth_model *model, bool original, ie_buf *config, ie_buf *generation_config);

#endif
