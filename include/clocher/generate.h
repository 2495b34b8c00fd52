/* States and generation: what a model has read, and what it writes next.
 *
 * A state holds the keys and values of one or more sequences. Tokens are appended in chunks of any size; a state
 * can be rolled back, saved and restored. Layers with a sliding window keep a ring of the last positions, so a
 * state can go back at most `rollback_tok` tokens exactly; ie_state_sync falls back to the beginning when that is
 * not enough. A cache in int8 can go back to any multiple of 64 tokens, and elsewhere as far as it holds that group of
 * 64 exactly (at least the unfinished one); ie_state_sync then keeps whole groups.
 *
 * Ownership: a state borrows its model and is freed before it. One thread at a time. */
#ifndef CLOCHER_GENERATE_H
#define CLOCHER_GENERATE_H

#include "clocher/model.h"
#include "clocher/sample.h"
#include "clocher/text.h"

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct ie_state ie_state;

/* options (clocher/model.h) may be NULL. Memory is taken here, none while tokens are computed. */
ie_status ie_state_new(ie_model *model, const ie_state_options *options, ie_state **out, ie_error *error);
void ie_state_free(ie_state *state);

int64_t ie_state_context(const ie_state *state);
ie_dtype ie_state_kv(const ie_state *state);
size_t ie_state_kv_bytes(const ie_state *state);
int64_t ie_state_sequences(const ie_state *state);
/* Most tokens of one sequence, of all sequences, and most positions with logits, in one forward. */
int64_t ie_state_chunk(const ie_state *state);
int64_t ie_state_forward_tok(const ie_state *state);
int64_t ie_state_forward_logits(const ie_state *state);
/* Tokens that a sequence holds, and their ids (borrowed, valid until the next call that changes the sequence). */
int64_t ie_state_length(const ie_state *state, int64_t sequence);
const int32_t *ie_state_ids(const ie_state *state, int64_t sequence);

/* Called with the logits of consecutive positions: (count, vocab), valid during the call. */
typedef ie_status (*ie_logits_fn)(void *arg, int64_t position, int64_t count, const float *logits,
                                  ie_error *error);
/* Called with the residual stream: layer 0 is the embedding, layer l what layer l - 1 left: (count, width). */
typedef ie_status (*ie_hidden_fn)(void *arg, int64_t layer, int64_t position, int64_t count,
                                  const float *hidden, ie_error *error);

typedef struct ie_append_options {
  bool all_logits;     /* logits of every position instead of the last one */
  ie_logits_fn logits; /* may be NULL */
  ie_hidden_fn hidden; /* may be NULL */
  void *arg;           /* of both */
  /* Asked before each layer of each chunk; true: the call ends with IE_CANCELLED, and the sequence holds the chunks
   * that were finished. */
  bool (*cancelled)(void *arg);
  void *cancelled_arg;
} ie_append_options;

/* Computes `count` >= 1 more tokens of a sequence. options may be NULL. Afterwards ie_state_logits gives the
 * logits of the last token. IE_INVALID_ARGUMENT for an id that is not below the vocabulary, IE_LIMIT (before
 * anything is computed) when the context does not hold them, IE_NUMERIC names the layer and tensor. After a
 * failure the sequence holds the tokens of the chunks that were finished. */
ie_status ie_state_append(ie_state *state, int64_t sequence, const int32_t *ids, int64_t count,
                          const ie_append_options *options, ie_error *error);

/* The next tokens of one sequence, as part of a forward. */
typedef struct ie_advance {
  int64_t sequence;
  const int32_t *ids; /* (count) */
  int64_t count;      /* 1 to ie_state_chunk */
  int64_t wanted;     /* logits of the last `wanted` of them: 0 to count */
  const float
      *logits; /* set: (wanted, vocab), NULL for none or after a failure; borrowed until the next forward */
} ie_advance;

typedef struct ie_forward_options {
  ie_hidden_fn hidden; /* may be NULL; gets all tokens of the forward in the order of the rows, position 0 */
  void *arg;
  bool (*cancelled)(void *arg); /* as in ie_append_options */
  void *cancelled_arg;
} ie_forward_options;

/* One forward over `n` different sequences: some may read their prompts, others go on by one token. All of them
 * together are at most ie_state_forward_tok tokens with logits of ie_state_forward_logits. options may be NULL.
 * Errors as ie_state_append; after one, no sequence has grown. */
ie_status ie_state_advance(ie_state *state, ie_advance *rows, int64_t n, const ie_forward_options *options,
                           ie_error *error);

/* One token for each of `count` different sequences in one forward. Row i of *logits (count, vocab; borrowed,
 * valid until the next forward) belongs to sequence[i]. */
ie_status ie_state_step(ie_state *state, const int32_t *sequence, const int32_t *ids, int64_t count,
                        const float **logits, ie_error *error);

/* (vocab) logits of the last token appended, until the next forward; NULL before, and where a device drew its id. */
const float *ie_state_logits(const ie_state *state);

/* Forgets all but the first `length` tokens. IE_LIMIT when a windowed or an int8 layer cannot go back so far. */
ie_status ie_state_rollback(ie_state *state, int64_t sequence, int64_t length, ie_error *error);

/* Makes the sequence a prefix of ids (count), as long as it can but shorter than count, so that appending the rest
 * gives the logits of the last id: keeps what it already holds in common. *kept is the new length. */
ie_status ie_state_sync(ie_state *state, int64_t sequence, const int32_t *ids, int64_t count, int64_t *kept,
                        ie_error *error);

/* Saves one sequence to a safetensors file (atomically), and puts it back into a state of the same model and KV
 * type. The restored sequence continues exactly as the saved one. */
ie_status ie_state_save(const ie_state *state, int64_t sequence, const char *path, ie_error *error);
ie_status ie_state_load(ie_state *state, int64_t sequence, const char *path, ie_error *error);

/* For measurements only: makes the sequence one of `length` tokens without computing them. The cache gets pseudo-random
 * keys and values of [-1, 1), the same ones for the same model shape, sequence and length; ids are 0. What follows takes
 * the time that it would take after a prompt of that length, and means nothing. IE_LIMIT beyond the context. */
ie_status ie_state_fill_random(ie_state *state, int64_t sequence, int64_t length, ie_error *error);

/* Work done since the state was made, counted where it is done. */
typedef struct ie_state_work {
  uint64_t weight_bytes, kv_bytes; /* read */
  uint64_t flop;                   /* 2 per multiply-add of products and attention */
  uint64_t forwards, tokens;
} ie_state_work;
ie_state_work ie_state_work_done(const ie_state *state);
/* Bytes of scratch memory (activations) that the state holds. */
size_t ie_state_scratch_bytes(const ie_state *state);

/* --- Generation ------------------------------------------------------------------------------------------ */

typedef enum ie_stop_reason { IE_STOP_LENGTH, IE_STOP_EOS, IE_STOP_STRING, IE_STOP_CANCELLED } ie_stop_reason;
/* "length", "eos", "stop", "cancelled". */
const char *ie_stop_reason_name(ie_stop_reason reason);

typedef struct ie_logprob {
  int32_t id;
  float logprob; /* natural logarithm of the softmax of the raw logits */
} ie_logprob;

/* Called for each new id with the text that may be shown after it (may be empty; never half a character, and held
 * back while it could begin a stop string). Returning false stops the generation. */
typedef bool (*ie_token_fn)(void *arg, int32_t id, const char *text, size_t size);

typedef struct ie_generate_options {
  const int32_t *prompt; /* (prompt_count) */
  int64_t prompt_count;
  int64_t max_new;
  ie_sample_params sample; /* all-zero: the distribution as it is; greedy: sample.greedy. A draw's step is
                                    the place of its token in the sequence, so a text that goes on from a saved
                                    state draws what the whole one would have drawn */
  uint64_t row;            /* tells the rows of a batch apart: part of what a draw depends on */
  const ie_tokenizer *tokenizer; /* NULL: no text, no stop strings */
  const char *const *stop;       /* (stop_count) strings that end the text and are not part of it */
  size_t stop_count;
  bool ignore_eos; /* the model's stop ids are ordinary tokens */
  const int32_t
      *stop_ids; /* (stop_id_count) more ids that end the text as the model's do, such as a chat format's */
  size_t stop_id_count;
  bool skip_special;    /* leave special tokens out of the text */
  int logprobs;         /* K > 0: keep the logprob of each new id and of the K best */
  ie_token_fn on_token; /* may be NULL */
  void *arg;
  bool (*cancelled)(void *arg); /* may be NULL; asked between forwards */
  void *cancelled_arg;
} ie_generate_options;

typedef struct ie_generate_result {
  ie_ids ids;    /* the new ids; a stop id that ended it is the last one */
  ie_bytes text; /* without the stop string */
  ie_stop_reason reason;
  int64_t computed_prompt_tok, reused_prompt_tok;
  double prefill_s;     /* from the call to the logits of the last prompt token */
  double first_token_s; /* from the call to the first id */
  double decode_s;      /* from the first id to the end */
  double *token_s;      /* (ids.count) seconds that each id took; the first one contains the prefill */
  ie_logprob *logprob;  /* (ids.count) of the chosen ids; NULL unless asked for */
  ie_logprob *top;      /* (ids.count, logprobs) best first */
} ie_generate_result;

/* Reads the prompt into a sequence (reusing what it already holds of it) and generates. *result is all zero on
 * failure; free it with ie_generate_result_free after success. IE_LIMIT, with the numbers, before anything is
 * computed when prompt and max_new do not fit the context. */
ie_status ie_generate(ie_state *state, int64_t sequence, const ie_generate_options *options,
                      ie_generate_result *result, ie_error *error);
void ie_generate_result_free(ie_generate_result *result);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
