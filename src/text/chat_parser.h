/* The part of parsing that is the same for every format: the list of messages, the ranges of ids, text in whole
 * UTF-8 characters, and the event of the id at hand. A format's chat_parser_ops drive it:
 *
 *   chat_parser_add(parser)      a message begins (its header is known); the caller fills its fields
 *   chat_parser_text(parser, ..) bytes of the open message's text
 *   chat_parser_close(parser)    the open message is complete; its range of ids ends after `ids_end` ids
 *
 * At most one message is open, and one id (or the finish) touches at most one message. */
#ifndef CLOCHER_TEXT_CHAT_PARSER_H
#define CLOCHER_TEXT_CHAT_PARSER_H

#include "base/buf.h"
#include "text/chat_format.h"

typedef struct chat_message {
  const char *role;                                     /* a constant */
  ie_buf name, channel, recipient, content_type, stray; /* empty: none */
  ie_buf text;
  ie_chat_parsed view; /* what callers see; its strings point into the buffers above */
} chat_message;

struct ie_chat_parser {
  const ie_chat_format *format;
  const ie_tokenizer *tokenizer;
  ie_ids ids;
  chat_message *messages;
  size_t count, capacity;
  bool open; /* the last message is */
  char held[4];
  size_t held_size; /* bytes of an unfinished character */
  ie_chat_event event;
  size_t event_from; /* size of the message's text before this id */
  bool malformed, complete, finished;
  void *state; /* of the format */
};

/* Appends a message, whose header the caller fills in, and opens it; its text starts with the next id (or with
 * this one, as content_id says). NULL when memory is out. */
chat_message *chat_parser_add(ie_chat_parser *parser, size_t content_id);
/* The open message's fields are filled: makes them visible. */
void chat_parser_opened(ie_chat_parser *parser);
/* Adds bytes to the open message's text. Ill-formed UTF-8 becomes U+FFFD, one for each maximal part; the start of
 * a character is held back. False when memory is out. */
bool chat_parser_text(ie_chat_parser *parser, const char *bytes, size_t size);
/* Lets go of what is held back, as U+FFFD. False when memory is out. */
bool chat_parser_flush(ie_chat_parser *parser);
/* Closes the open message: its text ends before id `content_end`, its range before id `end`. `closed` is false when
 * the stream ended in it. */
void chat_parser_close(ie_chat_parser *parser, size_t content_end, size_t end, bool closed);

/* Appends the bytes as UTF-8, ill-formed parts as U+FFFD (one for each maximal part: Unicode 16, section 3.9). */
bool chat_text_lossy(ie_buf *out, const char *bytes, size_t size);

#endif
