/* Text: tokenizers. (Chat formats: clocher/chat.h.)
 *
 * A tokenizer turns bytes into ids and ids into bytes, as the Hugging Face `tokenizers` library runs a
 * byte-level BPE tokenizer.json, or as tiktoken runs a rank file. Input is bytes: invalid UTF-8 is kept, and
 * decode(encode(x)) == x for every x wherever the tokenizer has no normaliser and no added-token flags that
 * swallow white space.
 *
 * Ownership: ids are returned in an ie_ids that the caller frees with ie_ids_free.
 * Thread safety: an open tokenizer may be used by any number of threads at once; an ie_detokenizer (streaming)
 * belongs to one. */
#ifndef CLOCHER_TEXT_H
#define CLOCHER_TEXT_H

#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* A growable list of token ids. All-zero is a valid empty one. */
typedef struct ie_ids {
  int32_t *ids; /* (count) */
  size_t count;
  size_t capacity;
} ie_ids;

ie_status ie_ids_append(ie_ids *list, const int32_t *ids, size_t count, ie_error *error);
void ie_ids_free(ie_ids *list);

/* A growable string of bytes (not necessarily UTF-8), NUL-terminated beyond `size`. All-zero is empty. */
typedef struct ie_bytes {
  char *data; /* (size) */
  size_t size;
  size_t capacity;
} ie_bytes;

ie_status ie_bytes_append(ie_bytes *bytes, const void *data, size_t size, ie_error *error);
void ie_bytes_free(ie_bytes *bytes);

typedef struct ie_tokenizer ie_tokenizer;

typedef struct ie_tokenizer_options {
  /* Pattern, normaliser and special tokens of a file that has none: o200k_harmony, qwen2.5, qwen3, nanochat or
   * llama3. Used for a .tiktoken rank file (NULL: known by its number of ranks, 199998 or 128000, else refused with
   * IE_INVALID_ARGUMENT) and for an IETOK1 pack (NULL: it only decodes). */
  const char *encoding;
  /* Folder for the packs of big tokenizer files, made when it is not there. A pack that is missing, damaged or of
   * another file is written anew; a folder that cannot be written only costs time. NULL: none is read or written. */
  const char *cache_dir;
} ie_tokenizer_options;

/* Opens a tokenizer.json, a .tiktoken rank file, nanochat's tokenizer.pkl, an IETOK1 pack or an own pack; the
 * kind is found from the contents. options may be NULL.
 * IE_UNSUPPORTED names a component that is not implemented; IE_FORMAT what is damaged. */
ie_status ie_tokenizer_open(const char *path, const ie_tokenizer_options *options, ie_tokenizer **out,
                            ie_error *error);
/* Searches a model directory: tokenizer.json, then *.tiktoken, tokenizer.pkl, tokenizer.ie.bin; each in dir, dir/hf,
 * dir/hf/original, dir/original. The encoding of a file that needs one is that of options, else what config.json
 * says (model_type, or the keys of OpenAI's own config of gpt-oss). The first file that exists is opened or refused;
 * *out = NULL and IE_OK when the directory has none. */
ie_status ie_tokenizer_open_dir(const char *dir, const ie_tokenizer_options *options, ie_tokenizer **out,
                                ie_error *error);
void ie_tokenizer_free(ie_tokenizer *tokenizer);

/* Highest id + 1. */
int32_t ie_tokenizer_vocab(const ie_tokenizer *tokenizer);
/* What kind of file it came from: "tokenizer.json", "tiktoken", "tokenizer.pkl" or "ietok1". */
const char *ie_tokenizer_kind(const ie_tokenizer *tokenizer);

typedef struct ie_encode_options {
  bool special_as_text; /* true: special tokens that stand in the text are plain text */
  bool add_special;     /* run the post-processor (BOS and the like) */
} ie_encode_options;

/* Appends the ids of `size` bytes of text to *out; on failure *out is as it was. options may be NULL.
 * IE_FORMAT when the text has a byte that the tokenizer has no token for (and is not UTF-8 there, or the file is a
 * rank file); IE_LIMIT when a pattern of the file backtracks without end. */
ie_status ie_tokenizer_encode(const ie_tokenizer *tokenizer, const char *text, size_t size,
                              const ie_encode_options *options, ie_ids *out, ie_error *error);

/* Byte range [start, end) of the original text that a token covers (golden/text section 5). */
typedef struct ie_span {
  size_t start, end;
} ie_span;

/* As ie_tokenizer_encode; *spans (out->count entries, freed by the caller with free) gets one range an id. */
ie_status ie_tokenizer_encode_spans(const ie_tokenizer *tokenizer, const char *text, size_t size,
                                    const ie_encode_options *options, ie_ids *out, ie_span **spans,
                                    ie_error *error);

/* The bytes of one id, borrowed; *size = 0 for an id that no token has. *special (may be NULL): the token is
 * an added token with special = true. */
const char *ie_tokenizer_token(const ie_tokenizer *tokenizer, int32_t id, size_t *size, bool *special);
/* The id of a special or added token by its exact content, or -1. */
int32_t ie_tokenizer_special_id(const ie_tokenizer *tokenizer, const char *content);

/* Appends the bytes of ids to *out; skip_special leaves out tokens with special = true. */
ie_status ie_tokenizer_decode(const ie_tokenizer *tokenizer, const int32_t *ids, size_t count,
                              bool skip_special, ie_bytes *out, ie_error *error);

/* Streaming: holds back the bytes of an unfinished UTF-8 character, never half a character is shown. */
typedef struct ie_detokenizer {
  char held[4];
  int held_size;
  bool skip_special;
} ie_detokenizer; /* all-zero (but skip_special) is the start */

/* Appends to *out what may be shown after this id (golden/text section 7). */
ie_status ie_detokenizer_push(ie_detokenizer *stream, const ie_tokenizer *tokenizer, int32_t id,
                              ie_bytes *out, ie_error *error);
/* Appends what is still held at the end. */
ie_status ie_detokenizer_finish(ie_detokenizer *stream, ie_bytes *out, ie_error *error);

/* Documents of a text file: what stands between lines that are exactly `<|endoftext|>` (a carriage return before the
 * line feed is part of that line). The line feed in front of such a line, and the last one of the file, belong to no
 * document; empty documents are left out. A text without such lines is one document. */
#define IE_DOCUMENT_SEPARATOR "<|endoftext|>"

typedef struct ie_documents {
  const char *text; /* (size) borrowed */
  size_t size;
  size_t at; /* where the search goes on; 0 at the start */
} ie_documents;

/* The next document as [*document, *document + *bytes); false at the end. */
bool ie_documents_next(ie_documents *documents, const char **document, size_t *bytes);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
