/* Pre-tokenisation: cutting a text into the pieces that are merged by themselves.
 *
 * The patterns of the common tokenizers (GPT-2, cl100k and its variants in Llama 3, Qwen and nanochat, o200k)
 * are recognised and run by hand-written code in one pass, linear in the text. Any other pattern is rewritten
 * for PCRE2 (text/pattern.h). Both give the same pieces; tests compare them.
 *
 * Thread safety: an ie_splitter is read-only; an ie_split_state belongs to one caller. */
#ifndef CLOCHER_TEXT_SPLIT_H
#define CLOCHER_TEXT_SPLIT_H

#include "clocher/status.h"
#include "text/image.h"
#include "text/unicode.h"

typedef enum ie_split_family {
  IE_FAMILY_NONE,
  IE_FAMILY_GPT2,
  IE_FAMILY_CL100K,
  IE_FAMILY_O200K
} ie_split_family;

typedef struct ie_splitter {
  const ie_image_stage *stage; /* borrowed */
  const char *text;            /* the stage's string, borrowed */
  ie_split_family family;      /* of a regex stage that is run by hand */
  int digits;                  /* CL100K, O200K: most numbers in a piece */
  void *regex;                 /* pcre2_code, owned; NULL when family is set */
} ie_splitter;

/* Prepares a stage. no_family: run PCRE2 even where hand-written code would do (for tests).
 * IE_UNSUPPORTED names what the pattern uses that is not implemented. */
ie_status ie_splitter_open(const ie_image_stage *stage, const char *strings, bool no_family, ie_splitter *out,
                           ie_error *error);
void ie_splitter_close(ie_splitter *splitter);

/* GPT-2's pattern, which a ByteLevel pre-tokenizer with use_regex runs. */
extern const char ie_split_gpt2_pattern[];
/* Those of the encodings that rank files are opened with. */
extern const char ie_split_llama3_pattern[], ie_split_qwen_pattern[], ie_split_nanochat_pattern[],
    ie_split_o200k_pattern[];

typedef struct ie_split_state {
  void *match;   /* pcre2_match_data, owned */
  void *context; /* pcre2_match_context, owned */
  void *stack;   /* pcre2_jit_stack, owned */
} ie_split_state;

void ie_split_state_free(ie_split_state *state);

/* The size of the first piece of p (n >= 1 bytes of well-formed UTF-8) by a hand-written family. */
size_t ie_split_family_next(const ie_splitter *splitter, const ie_char_classes *classes, const char *p,
                            size_t n);

/* A part of a text: [start, end). */
typedef struct ie_range {
  size_t start, end;
} ie_range;

/* Finds the next match of a regex or literal stage in text at or after `from`; start = size when there is none.
 * Text is well-formed UTF-8. */
ie_status ie_split_match(const ie_splitter *splitter, ie_split_state *state, const char *text, size_t size,
                         size_t from, ie_range *out, ie_error *error);

#endif
