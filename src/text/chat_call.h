/* A call of a tool as a model writes it in JSON: {"name": N, "arguments": A}, or "parameters" in place of
 * "arguments". */
#ifndef CLOCHER_TEXT_CHAT_CALL_H
#define CLOCHER_TEXT_CHAT_CALL_H

#include "base/buf.h"

typedef struct chat_call_text {
  const char *name; /* (name_size) borrowed from the text; letters, digits and _ - . : / */
  size_t name_size;
  const char *arguments; /* (arguments_size) the value as it was written; "{}" where there is none */
  size_t arguments_size;
  ie_buf stray;   /* other members, as they were written; owned */
  bool malformed; /* there are no arguments, or members that no format has */
} chat_call_text;

typedef enum chat_call_result { CHAT_CALL_OK, CHAT_CALL_OTHER, CHAT_CALL_NO_MEMORY } chat_call_result;

/* CHAT_CALL_OTHER: the text is not such a call. out->stray is the caller's to free in every case. */
chat_call_result chat_call_read(const char *text, size_t size, chat_call_text *out);

/* The text may still become such a call: it is the beginning of an object whose first key belongs to one. */
bool chat_call_may_begin(const char *text, size_t size);

#endif
