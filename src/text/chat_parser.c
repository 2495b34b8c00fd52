#include "text/chat_parser.h"

#include "base/size.h"
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

/* ---- text ---- */

/* The length of the ill-formed part at p: the longest start of a well-formed character, or one byte. */
static size_t illformed_length(const char *p, size_t n) {
  for (size_t k = n < 3 ? n : 3; k > 1; k--)
    if (ie_utf8_unfinished(p, k) == k) return k;
  return 1;
}

bool chat_text_lossy(ie_buf *out, const char *bytes, size_t size) {
  while (size) {
    size_t good = ie_utf8_valid(bytes, size);
    ie_buf_append(out, bytes, good);
    bytes += good;
    size -= good;
    if (!size) break;
    size_t bad = illformed_length(bytes, size);
    ie_buf_append_str(out, replacement);
    bytes += bad;
    size -= bad;
  }
  return !out->failed;
}

static chat_message *open_message(ie_chat_parser *parser) {
  return &parser->messages[parser->count - 1];
}

bool chat_parser_text(ie_chat_parser *parser, const char *bytes, size_t size) {
  ie_buf *text = &open_message(parser)->text;
  if (parser->held_size && size) { /* complete the held character first: it needs at most three bytes more */
    char joined[8];
    size_t more = size < 3 ? size : 3;
    memcpy(joined, parser->held, parser->held_size);
    memcpy(joined + parser->held_size, bytes, more);
    size_t total = parser->held_size + more;
    uint32_t code_point;
    size_t length = ie_utf8_decode(joined, total, &code_point);
    if (!length && ie_utf8_unfinished(joined, total) == total) {
      memcpy(parser->held, joined, total); /* still unfinished: all of it is held, at most three bytes */
      parser->held_size = total;
      return true;
    }
    if (length) {
      ie_buf_append(text, joined, length);
      bytes += length - parser->held_size;
      size -= length - parser->held_size;
      parser->held_size = 0;
    } else if (!chat_parser_flush(parser)) { /* these bytes do not go on with it */
      return false;
    }
  }
  size_t held = ie_utf8_unfinished(bytes, size);
  chat_text_lossy(text, bytes, size - held);
  if (held) {
    memcpy(parser->held, bytes + size - held, held);
    parser->held_size = held;
  }
  return !text->failed;
}

bool chat_parser_flush(ie_chat_parser *parser) {
  if (!parser->held_size) return true;
  parser->held_size = 0;
  return ie_buf_append_str(&open_message(parser)->text, replacement);
}

/* ---- messages ---- */

static void message_free(chat_message *message) {
  ie_buf_free(&message->name);
  ie_buf_free(&message->channel);
  ie_buf_free(&message->recipient);
  ie_buf_free(&message->content_type);
  ie_buf_free(&message->stray);
  ie_buf_free(&message->text);
}

chat_message *chat_parser_add(ie_chat_parser *parser, size_t content_id) {
  if (parser->count == parser->capacity) {
    size_t capacity = parser->capacity ? 2 * parser->capacity : 8, bytes;
    chat_message *grown =
        ie_size_mul(capacity, sizeof *grown, &bytes) ? realloc(parser->messages, bytes) : NULL;
    if (!grown) return NULL;
    parser->messages = grown;
    parser->capacity = capacity;
  }
  size_t first = parser->count ? parser->messages[parser->count - 1].view.end_id : 0;
  chat_message *message = &parser->messages[parser->count++];
  *message = (chat_message){.view = {.first_id = first, .content_id = content_id}};
  parser->open = true;
  parser->held_size = 0;
  parser->event_from = 0;
  return message;
}

static const char *or_null(const ie_buf *buf) {
  return buf->size ? buf->data : NULL;
}

static void message_update(ie_chat_parser *parser) {
  chat_message *m = open_message(parser);
  m->view.message = (ie_chat_message){.role = m->role,
                                      .name = or_null(&m->name),
                                      .channel = or_null(&m->channel),
                                      .recipient = or_null(&m->recipient),
                                      .content_type = or_null(&m->content_type),
                                      .text = m->text.data ? m->text.data : "",
                                      .text_size = m->text.size};
  m->view.stray = or_null(&m->stray);
  if (m->view.malformed) parser->malformed = true;
}

void chat_parser_opened(ie_chat_parser *parser) {
  message_update(parser);
  parser->event.message = (int64_t)parser->count - 1;
  parser->event.opened = true;
}

void chat_parser_close(ie_chat_parser *parser, size_t content_end, size_t end, bool closed) {
  chat_message *message = open_message(parser);
  message->view.content_end_id = content_end;
  message->view.end_id = end;
  message->view.closed = closed;
  parser->open = false;
  parser->event.message = (int64_t)parser->count - 1;
  parser->event.closed = closed;
  message_update(parser);
}

/* ---- the public face ---- */

ie_status ie_chat_parser_new(const ie_chat_format *format, const ie_tokenizer *tokenizer, const char *role,
                             ie_chat_parser **out, ie_error *error) {
  *out = NULL;
  ie_status status = chat_format_require(format, error);
  if (status != IE_OK) return status;
  ie_chat_parser *parser = calloc(1, sizeof *parser);
  if (!parser) return ie_error_set(error, IE_OUT_OF_MEMORY, "chat: out of memory");
  parser->format = format;
  parser->tokenizer = tokenizer;
  status = format->parser->open(parser, role, error);
  if (status != IE_OK) {
    ie_chat_parser_free(parser);
    return status;
  }
  *out = parser;
  return IE_OK;
}

void ie_chat_parser_free(ie_chat_parser *parser) {
  if (!parser) return;
  parser->format->parser->close(parser);
  for (size_t i = 0; i < parser->count; i++) message_free(&parser->messages[i]);
  free(parser->messages);
  ie_ids_free(&parser->ids);
  free(parser);
}

static void event_begin(ie_chat_parser *parser) {
  parser->event = (ie_chat_event){.message = IE_CHAT_NO_MESSAGE};
  parser->event_from = parser->open ? open_message(parser)->text.size : 0;
}

/* Completes the event with what was added to the message's text; an open message's range grows with the stream. */
static void event_end(ie_chat_parser *parser, ie_chat_event *event) {
  if (parser->open) {
    chat_message *message = open_message(parser);
    message->view.content_end_id = parser->ids.count;
    message->view.end_id = parser->ids.count;
    message_update(parser);
    parser->event.message = (int64_t)parser->count - 1;
  }
  parser->event.text = "";
  if (parser->event.message >= 0) {
    const ie_buf *text = &parser->messages[parser->event.message].text;
    if (text->size > parser->event_from) {
      parser->event.text = text->data + parser->event_from;
      parser->event.text_size = text->size - parser->event_from;
    }
  }
  if (event) *event = parser->event;
}

ie_status ie_chat_parser_push(ie_chat_parser *parser, int32_t id, ie_chat_event *event, ie_error *error) {
  if (parser->finished)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "chat parser: id %d was pushed after the end of the stream", (int)id);
  ie_status status = ie_ids_append(&parser->ids, &id, 1, error);
  if (status != IE_OK) return status;
  event_begin(parser);
  status = parser->format->parser->push(parser, id, error);
  if (status != IE_OK) {
    parser->finished = true; /* out of memory half-way: nothing more may come */
    return status;
  }
  event_end(parser, event);
  return IE_OK;
}

ie_status ie_chat_parser_finish(ie_chat_parser *parser, ie_chat_event *event, ie_error *error) {
  event_begin(parser);
  ie_status status = parser->finished ? IE_OK : parser->format->parser->finish(parser, error);
  parser->finished = true;
  if (status != IE_OK) return status;
  event_end(parser, event);
  return IE_OK;
}

size_t ie_chat_parser_count(const ie_chat_parser *parser) {
  return parser->count;
}

const ie_chat_parsed *ie_chat_parser_at(const ie_chat_parser *parser, size_t i) {
  return &parser->messages[i].view;
}

const ie_ids *ie_chat_parser_ids(const ie_chat_parser *parser) {
  return &parser->ids;
}

bool ie_chat_parser_complete(const ie_chat_parser *parser) {
  return parser->complete;
}

bool ie_chat_parser_malformed(const ie_chat_parser *parser) {
  return parser->malformed;
}

ie_status ie_chat_parse(const ie_chat_format *format, const ie_tokenizer *tokenizer, const char *role,
                        const int32_t *ids, size_t count, ie_chat_parser **out, ie_error *error) {
  *out = NULL;
  ie_chat_parser *parser;
  ie_status status = ie_chat_parser_new(format, tokenizer, role, &parser, error);
  for (size_t i = 0; i < count && status == IE_OK; i++)
    status = ie_chat_parser_push(parser, ids[i], NULL, error);
  if (status == IE_OK) status = ie_chat_parser_finish(parser, NULL, error);
  if (status != IE_OK) {
    ie_chat_parser_free(parser);
    return status;
  }
  *out = parser;
  return IE_OK;
}
