/* Training: steps of an optimiser on a model's parameters, or on an adapter's, over batches of token ids.
 *
 * A run belongs to a folder. It is made, stepped and finished by its caller, who prints, evaluates and stops as it
 * likes:
 *
 *   ie_train_new(model, &options, &train, &error);
 *   while (ie_train_position(train) < options.steps) ie_train_step(train, &metrics, &error);
 *   ie_train_finish(train, &error);
 *
 * Numbers: masters, gradients, optimiser and attention are f32, products bf16 or f32 by the model's precision
 * (clocher/gradients.h). A run is a function of its options, the model and the data: the same for any number of
 * threads, and for any number of processes to rounding (with `deterministic` to the bit). `balance` is over the tokens of
 * one forward: with it, runs are the same where their forwards hold the same rows (micro_rows). A run that is stopped and
 * resumed from a snapshot ends with the same bits as one that was not.
 *
 * Ownership: a run borrows its model (opened with ie_model_options.train, or carrying an adapter that is trained) and
 * tokenizer. One thread at a time. */
#ifndef CLOCHER_TRAIN_H
#define CLOCHER_TRAIN_H

#include "clocher/adapter.h"
#include "clocher/chat.h"
#include "clocher/gradients.h"
#include "clocher/ranks.h"
#include "clocher/text.h"

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct ie_train ie_train;

typedef enum ie_train_optimiser { IE_TRAIN_ADAMW, IE_TRAIN_MUON, IE_TRAIN_ADAMW8BIT } ie_train_optimiser;
typedef enum ie_train_schedule {
  IE_TRAIN_CONSTANT,
  IE_TRAIN_LINEAR,
  IE_TRAIN_COSINE,
  IE_TRAIN_STEP
} ie_train_schedule;

/* How documents become rows: one after the other and cut (as base models are trained); each for itself in packed rows;
 * whole, rows padded (conversations). */
typedef enum ie_train_layout { IE_TRAIN_STREAM, IE_TRAIN_PACKED, IE_TRAIN_WHOLE } ie_train_layout;

typedef struct ie_train_options {
  /* Data: one of both. data is text with documents separated by lines <|endoftext|>, or *.jsonl; data_ids a safetensors
   * file with the tensor `data`, I32 (steps, rows, tokens), used in order. */
  const char *data, *data_ids;
  const char *valid;     /* text or *.jsonl for ie_train_evaluate, opened by ie_train_new; NULL: none */
  const char *cache_dir; /* of tokenised data; NULL: out */
  const ie_tokenizer *tokenizer; /* NULL with data_ids alone */
  const ie_chat_format *format;  /* of conversations; NULL: they are refused */
  ie_train_layout layout;
  bool (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes); /* of tokenising; may be NULL */
  void *user;
  /* Size of a step. */
  int64_t steps, rows; /* rows of the global batch */
  int64_t length_tok;  /* of a row; 0: the model's context, at most 1024; data_ids has its own */
  int64_t micro_rows;  /* rows of one forward; 0: all of this process's rows */
  /* The optimiser. Zeros are not defaults: begin with ie_train_options_default. */
  ie_train_optimiser optimiser;
  double rate, beta1, beta2, eps, weight_decay;
  /* Rates of groups of their own; 0: that of the rest, which is `rate`, and 0.015 of it where Muon has the matrices. The
   * schedule is one for all. Embeddings (a matrix that is embedding and output at once is one), the output matrix,
   * and scalars: norms, biases, sinks. */
  double embedding_rate, head_rate, scalar_rate;
  double clip; /* largest norm of all gradients; 0: none */
  ie_train_schedule schedule;
  int64_t warmup;
  double final_factor; /* of linear and cosine: what the rate ends at; of step: what it does not fall below */
  int64_t step_every;  /* of the step schedule */
  double step_gamma;
  uint64_t seed;
  double balance; /* weight of the routers' balance loss (Fedus et al. 2021); 0: only measured */
  /* The last so many steps compute with the parameters as they will be stored (bf16, MXFP4 ...); gradients go to the
   * masters straight through. 0: none. */
  int64_t stored_steps;
  bool recompute; /* clocher/gradients.h */
  /* The folder. */
  const char *out, *source; /* source: the model's folder: what is copied from it; for an adapter its name */
  int64_t save_every,
      keep;    /* snapshots OUT/step-NNNNNN every so many steps (0: none), the newest `keep` stay (0: all) */
  bool resume; /* go on from the newest snapshot where there is one */
  const ie_adapter *adapter; /* what is trained; NULL: the model */
  /* Processes. With ranks, each opens the same model with the same options and makes the same calls; every step is that
   * of the global batch, and the parameters are the same in all of them, which is checked. Rank 0 tokenises and writes;
   * the folder and the data are where all find them. Failures are agreed on. Borrowed. */
  ie_ranks *ranks; /* NULL: this process alone */
  bool
      deterministic; /* gradients are added up in an order that does not depend on the processes: the same bits for any
                         number of them, at the cost of micro_rows (0: single rows) a forward, and of a copy of the
                         gradients for each doubling of the forwards of a step */
} ie_train_options;

/* AdamW with betas 0.9 and 0.95, eps 1e-8, decay 0.1, clip 1, rate 3e-4, constant, 1 row, keep 2. */
ie_train_options ie_train_options_default(void);

typedef struct ie_train_metrics {
  int64_t step; /* from 1 */
  double loss;  /* nats a target, of the global batch before the step */
  double rate;  /* learning rate of the step */
  double grad_norm;
  int64_t tokens; /* targets so far */
  double step_s;  /* seconds of this step */
  double tok_s;   /* of this step, all processes together */
  double flop; /* of the model's products in this step: three times a forward, twice where weights are frozen;
                     recomputation is not counted */
  double elapsed_s;               /* of all steps of the run, those before a resume too */
  double balance;                 /* mean balance loss of the routers, 1 when even; 0 without experts */
  double idle_experts;            /* share of the experts of all layers that no token of the step chose */
  int64_t expert_min, expert_max; /* tokens of the step that chose an expert: the fewest, the most, */
  double expert_mean;             /* the mean over all layers' experts; 0 without experts */
  /* The same for each expert: (routers, experts / routers), layer after layer; until the next step. */
  const int64_t *expert_tokens;
  int64_t routers, experts;
  int64_t worst_layer,
      worst_idle; /* the layer with the largest share of experts that nobody chose, and how many */
  int64_t epoch;
} ie_train_metrics;

/* IE_INVALID_ARGUMENT names an option, or what a snapshot's run had otherwise (model, data, optimiser). */
ie_status ie_train_new(ie_model *model, const ie_train_options *options, ie_train **out, ie_error *error);
void ie_train_free(ie_train *train);

/* Steps done. */
int64_t ie_train_position(const ie_train *train);

/* What there is to learn from. */
typedef struct ie_train_data {
  int64_t documents, tokens; /* as tokenised; data_ids: rows and ids */
  int64_t cut_documents;     /* IE_TRAIN_WHOLE: documents longer than a row, */
  int64_t cut_tokens;        /* and the tokens beyond it, which are never seen */
  int64_t silent_documents;  /* from which nothing is learned: no target in them that a row can hold */
} ie_train_data;
ie_train_data ie_train_data_get(const ie_train *train);

/* Parameters that are stepped alike. */
enum { IE_TRAIN_GROUPS = 4 };
typedef struct ie_train_group_plan {
  const char *name;      /* "matrices", "embeddings", "head", "scalars" */
  const char *optimiser; /* "adamw", "muon", "adamw8bit"; of small tensors adamw8bit is adamw */
  double rate;           /* before the schedule */
  int64_t tensors, parameters;
} ie_train_group_plan;
/* (IE_TRAIN_GROUPS) of a run. */
const ie_train_group_plan *ie_train_group_plans(const ie_train *train);

/* One step, and a snapshot when it is due. IE_NUMERIC: the loss or a gradient is not finite; the message says what and
 * where; nothing was changed by this step. A snapshot takes the place of an older one when a step was made from it. */
ie_status ie_train_step(ie_train *train, ie_train_metrics *out, ie_error *error);

typedef struct ie_train_evaluation {
  double loss;          /* nats a target */
  double bits_per_byte; /* 0 where the bytes are not known, or not all of the text is a target */
  int64_t targets, bytes;
} ie_train_evaluation;
/* The loss over options.valid, once. cancelled may be NULL. */
ie_status ie_train_evaluate(ie_train *train, ie_train_evaluation *out, bool (*cancelled)(void *arg),
                            void *arg, ie_error *error);

/* The step of a snapshot's folder by its name ("step-000100"), or -1 for any other name. */
int64_t ie_train_snapshot_step(const char *name);
/* A snapshot of now; nothing when there is one of this step. */
ie_status ie_train_save(ie_train *train, ie_error *error);
/* The newest snapshot stays from now on, beside those of `keep`, until another one is guarded: what there was before
 * trouble. Returns its step, -1 when there is none. Of several ranks
 * the first is enough. */
int64_t ie_train_guard(ie_train *train);
/* The trained model (or adapter) to OUT in the published layout. */
ie_status ie_train_finish(ie_train *train, ie_error *error);

/* What a run takes, in bytes. */
typedef struct ie_train_plan {
  size_t values, gradients, states, activations, data, other, peak;
  int64_t parameters; /* that are trained */
  int64_t row_tokens;
  double flop_per_step;
  ie_train_group_plan group[IE_TRAIN_GROUPS]; /* without tensors where the model has no such parameters */
} ie_train_plan;
/* Of a model that was opened (plan_only is enough) and such options, before ie_train_new. */
ie_status ie_train_plan_make(ie_model *model, const ie_train_options *options, ie_train_plan *out,
                             ie_error *error);

/* A new adapter for a model, A drawn by seed and B zero. targets: names of modules or their ends; count 0: all linear
 * layers but the output matrix. base_model: what the adapter says that it is for. */
typedef struct ie_lora_options {
  int64_t r;
  double alpha;
  const char *const *targets;
  size_t target_count;
  const char *base_model;
  uint64_t seed;
} ie_lora_options;
ie_status ie_adapter_for_model(const ie_model *model, const ie_lora_options *options, ie_adapter **out,
                               ie_error *error);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
