/* A prompt before it is encoded: pieces of plain text and special tokens, in order. A format renders to parts;
 * each text part is encoded by itself, so that no token spans two of them, and special tokens that stand in a
 * text stay text. Owner: whoever declared it; all-zero is a valid empty list. A failed allocation sets `failed`,
 * later calls do nothing, and chat_parts_encode reports it. */
#ifndef CLOCHER_TEXT_CHAT_PARTS_H
#define CLOCHER_TEXT_CHAT_PARTS_H

#include "base/buf.h"
#include "clocher/chat.h"

typedef enum chat_part_kind {
  CHAT_PART_TEXT,
  CHAT_PART_SPECIAL, /* the name of a special token */
  CHAT_PART_MARKER   /* the same, or text where the tokenizer has no such token */
} chat_part_kind;

typedef struct chat_part {
  size_t start, size; /* bytes of chat_parts.text */
  chat_part_kind kind;
  bool trained; /* its ids are targets */
} chat_part;

typedef struct chat_parts {
  ie_buf text; /* all parts, one after the other */
  chat_part *parts;
  size_t count, capacity;
  bool failed;
  bool trained; /* what is added now are targets */
  bool masked;  /* the prompt gets a mask */
  size_t limit; /* ids beyond this number are cut off; 0: none are */
  size_t keep;  /* but for those of this many parts at the end, which follow what was kept */
} chat_parts;

/* One text part; nothing for an empty text. */
void chat_parts_text(chat_parts *parts, const char *text, size_t size);
/* Text that goes on with the text part before it, if there is one: both are encoded as one. */
void chat_parts_join(chat_parts *parts, const char *text, size_t size);
void chat_parts_join_str(chat_parts *parts, const char *text);
void chat_parts_special(chat_parts *parts, const char *name);
/* A special token such as <tool_call>, which older tokenizers of a family spell with ordinary ones. */
void chat_parts_marker(chat_parts *parts, const char *name);
/* Ends a text part that was appended to parts->text piece by piece since its size was `start`. */
void chat_parts_close_text(chat_parts *parts, size_t start);

/* ids, text and mask of the prompt. IE_UNSUPPORTED names a special token that the tokenizer lacks. */
ie_status chat_parts_encode(const chat_parts *parts, const ie_tokenizer *tokenizer, ie_chat_prompt *out,
                            ie_error *error);
void chat_parts_free(chat_parts *parts);

#endif
