/* The table of chat formats: what a format has to provide. One file (or a few) a format, one entry in
 * chat_format.c. */
#ifndef CLOCHER_TEXT_CHAT_FORMAT_H
#define CLOCHER_TEXT_CHAT_FORMAT_H

#include "clocher/chat.h"
#include "text/chat_parts.h"

#include <jansson.h>

/* What a format's parser does; see text/chat_parser.h. */
typedef struct chat_parser_ops {
  /* Sets parser->state for a stream whose header of `role` (NULL: none) was given by the prompt. */
  ie_status (*open)(ie_chat_parser *parser, const char *role, ie_error *error);
  ie_status (*push)(ie_chat_parser *parser, int32_t id, ie_error *error);
  ie_status (*finish)(ie_chat_parser *parser, ie_error *error);
  void (*close)(ie_chat_parser *parser); /* frees parser->state, which may be NULL */
} chat_parser_ops;

typedef struct chat_grammar chat_grammar; /* text/chat_tagged.h */

struct ie_chat_format {
  const char *name;
  /* All NULL in a format that is not built yet. */
  bool (*recognise)(const ie_tokenizer *tokenizer, const char *template_text, size_t size);
  /* request is an object; date is YYYY-MM-DD. */
  ie_status (*render)(const json_t *request, const char *date, chat_parts *parts, ie_error *error);
  const char *const *stop_tokens; /* NULL-terminated names */
  const chat_parser_ops *parser;
  const char *const *efforts;  /* NULL-terminated; NULL: none */
  const chat_grammar *grammar; /* of formats whose parser is chat_tagged_ops */
};

extern const ie_chat_format chat_format_harmony, chat_format_qwen2_5, chat_format_qwen3, chat_format_llama3_1,
    chat_format_llama3_2, chat_format_nanochat, chat_format_c2c;

/* IE_UNSUPPORTED with the format's name when it is not built. */
ie_status chat_format_require(const ie_chat_format *format, ie_error *error);

#endif
