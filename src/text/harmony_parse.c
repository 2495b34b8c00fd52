/* The state machine over ids: between messages, in a header, in a text. */
#include "base/quote.h"
#include "text/chat_parser.h"
#include "text/harmony.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum harmony_place {
  BETWEEN, /* messages */
  HEADER,
  STOPPED, /* after a header that a stop token ended before it said anything: its <|message|> may still come */
  TEXT
} harmony_place;

typedef struct harmony_state {
  int32_t start, message, end, stop, call, channel, constrain; /* ids; -1 where the tokenizer lacks one */
  bool o200k;                                                  /* ids are those of o200k_harmony */
  harmony_place place;
  const char *given; /* role of the header at hand where the prompt opened it, or NULL */
  bool started;      /* a <|start|> stands before the header at hand */
  bool damaged;      /* the header at hand holds an id that is not its */
  size_t header_id;  /* its first id */
  size_t stop_id;    /* in STOPPED, the stop token */
  harmony_items items;
} harmony_state;

static bool is_stop(const harmony_state *s, int32_t id) {
  return id >= 0 && (id == s->end || id == s->stop || id == s->call);
}

static ie_status harmony_open(ie_chat_parser *parser, const char *role, ie_error *error) {
  const char *known = role ? harmony_role(role, strlen(role)) : NULL;
  if (role && !known)
    return ie_error_set(
        error, IE_INVALID_ARGUMENT,
        "chat parser: role: expected system, developer, user, assistant or tool, found \"%s\"",
        ie_quote(role).text);
  harmony_state *s = calloc(1, sizeof *s);
  if (!s) return ie_error_set(error, IE_OUT_OF_MEMORY, "chat: out of memory");
  parser->state = s;
  const ie_tokenizer *t = parser->tokenizer;
  s->start = ie_tokenizer_special_id(t, HARMONY_START);
  s->message = ie_tokenizer_special_id(t, HARMONY_MESSAGE);
  s->end = ie_tokenizer_special_id(t, HARMONY_END);
  s->stop = ie_tokenizer_special_id(t, HARMONY_RETURN);
  s->call = ie_tokenizer_special_id(t, HARMONY_CALL);
  s->channel = ie_tokenizer_special_id(t, HARMONY_CHANNEL);
  s->constrain = ie_tokenizer_special_id(t, HARMONY_CONSTRAIN);
  if (s->start < 0 || s->message < 0 || s->end < 0)
    return ie_error_set(error, IE_UNSUPPORTED, "chat format harmony: the tokenizer has no special token %s",
                        s->start < 0     ? HARMONY_START
                        : s->message < 0 ? HARMONY_MESSAGE
                                         : HARMONY_END);
  s->o200k = s->start == 200006 && s->message == 200008;
  s->given = known;
  s->started = known != NULL;
  s->place = known ? HEADER : BETWEEN;
  parser->complete = !known;
  return IE_OK;
}

static void harmony_close(ie_chat_parser *parser) {
  harmony_state *s = parser->state;
  if (s) harmony_items_free(&s->items);
  free(s);
}

/* The bytes of an id. gpt-oss can write ids up to 201088, whose tokens past <|endofprompt|> no tokenizer.json lists:
 * OpenAI's own tokenizer names them as here. *size = 0: no token at all. */
static const char *token_bytes(const ie_chat_parser *parser, int32_t id, char name[32], size_t *size,
                               bool *special) {
  const harmony_state *s = parser->state;
  const char *bytes = ie_tokenizer_token(parser->tokenizer, id, size, special);
  if (*size || !s->o200k || id < 199998 || id > 201088) return bytes;
  *size = (size_t)snprintf(name, 32, "<|reserved_%d|>", (int)id);
  *special = true;
  return name;
}

/* ---- messages from headers ---- */

/* Moves a header that was read into a new message. NULL when memory is out. */
static chat_message *message_from(ie_chat_parser *parser, harmony_header *header, size_t content_id) {
  harmony_state *s = parser->state;
  chat_message *message = chat_parser_add(parser, content_id);
  if (!message) return NULL;
  message->role = header->role;
  message->name = header->name;
  message->channel = header->channel;
  message->recipient = header->recipient;
  message->content_type = header->content_type;
  message->stray = header->stray;
  message->view.malformed = header->malformed || s->damaged;
  header->name = header->channel = header->recipient = header->content_type = header->stray = (ie_buf){0};
  chat_parser_opened(parser);
  return message;
}

static void header_begin(harmony_state *s, size_t first_id, const char *given, bool started) {
  harmony_items_clear(&s->items);
  s->place = HEADER;
  s->given = given;
  s->started = started;
  s->damaged = false;
  s->header_id = first_id;
}

/* <|message|>: the header is complete, its text begins. */
static bool header_end(ie_chat_parser *parser) {
  harmony_state *s = parser->state;
  harmony_header header;
  bool ok = harmony_header_read(&s->items, s->given, s->started, &header) &&
            message_from(parser, &header, parser->ids.count);
  harmony_header_free(&header);
  s->place = TEXT;
  return ok;
}

/* A header that ended otherwise: what it holds becomes a message, unless it names an author and nothing else. The
 * message's ids end before `end`, its text before `content_end`. */
static bool header_abandon(ie_chat_parser *parser, size_t content_end, size_t end, bool closed) {
  harmony_state *s = parser->state;
  parser->malformed = true;
  s->place = BETWEEN;
  if (harmony_items_blank(&s->items)) return true;
  harmony_header h;
  bool ok = harmony_header_recover(&s->items, s->given, s->started, &h);
  if (ok && (h.text.size || h.channel.size || h.recipient.size || h.content_type.size || h.name.size)) {
    ok = message_from(parser, &h, s->header_id) != NULL &&
         chat_parser_text(parser, h.text.data, h.text.size) && chat_parser_flush(parser);
    if (ok) chat_parser_close(parser, content_end, end, closed);
  }
  harmony_header_free(&h);
  return ok;
}

/* A stop token in a header. What the header says is a message; a header without a word of text waits for one id. */
static bool header_stop(ie_chat_parser *parser) {
  harmony_state *s = parser->state;
  size_t here = parser->ids.count - 1;
  if (harmony_items_blank(&s->items)) return header_abandon(parser, here, here + 1, /*closed=*/true);
  harmony_header h;
  bool ok = harmony_header_recover(&s->items, s->given, s->started, &h), silent = h.text.size == 0;
  harmony_header_free(&h);
  if (!ok || !silent) return ok && header_abandon(parser, here, here + 1, /*closed=*/true);
  parser->malformed = true;
  s->place = STOPPED;
  s->stop_id = here;
  return true;
}

/* ---- ids ---- */

static bool header_item(ie_chat_parser *parser, int32_t id) {
  harmony_state *s = parser->state;
  if (id >= 0 && id == s->channel)
    return harmony_items_add(&s->items, HARMONY_CHANNEL_MARK, HARMONY_CHANNEL, strlen(HARMONY_CHANNEL));
  if (id >= 0 && id == s->constrain)
    return harmony_items_add(&s->items, HARMONY_CONSTRAIN_MARK, HARMONY_CONSTRAIN, strlen(HARMONY_CONSTRAIN));
  char name[32];
  size_t size;
  bool special = false;
  const char *bytes = token_bytes(parser, id, name, &size, &special);
  if (!size) {
    s->damaged = true;
    parser->malformed = true;
    return harmony_items_add(&s->items, HARMONY_UNKNOWN, "\xEF\xBF\xBD", 3);
  }
  return harmony_items_add(&s->items, special ? HARMONY_OTHER : HARMONY_TEXT, bytes, size);
}

static bool push_between(ie_chat_parser *parser, int32_t id) {
  harmony_state *s = parser->state;
  size_t here = parser->ids.count - 1;
  if (id == s->start) {
    header_begin(s, here + 1, NULL, /*started=*/true);
    return true;
  }
  parser->malformed = true;
  if (is_stop(s, id)) return true;
  bool mark = id >= 0 && (id == s->message || id == s->channel || id == s->constrain);
  header_begin(s, here, mark ? "assistant" : NULL, /*started=*/false);
  return id == s->message ? header_end(parser) : header_item(parser, id);
}

/* A <|start|> in a header. Where no <|start|> stood before the header, it was speech between messages. */
static bool restart_header(ie_chat_parser *parser) {
  harmony_state *s = parser->state;
  size_t here = parser->ids.count - 1;
  parser->malformed = true;
  bool blank = harmony_items_blank(&s->items);
  if (!blank && s->started) {
    s->damaged = true;
    return harmony_items_add(&s->items, HARMONY_OTHER, HARMONY_START, strlen(HARMONY_START));
  }
  bool ok = blank || header_abandon(parser, here, here, /*closed=*/true);
  header_begin(s, here + 1, NULL, /*started=*/true);
  s->damaged = blank;
  return ok;
}

static bool push_header(ie_chat_parser *parser, int32_t id) {
  harmony_state *s = parser->state;
  if (id == s->message) return header_end(parser);
  if (id == s->start) return restart_header(parser);
  return is_stop(s, id) ? header_stop(parser) : header_item(parser, id);
}

static bool push_stopped(ie_chat_parser *parser, int32_t id) {
  harmony_state *s = parser->state;
  if (id == s->message) {
    s->damaged = true;
    return header_end(parser);
  }
  return header_abandon(parser, s->stop_id, s->stop_id + 1, /*closed=*/true) && push_between(parser, id);
}

static bool push_text(ie_chat_parser *parser, int32_t id) {
  harmony_state *s = parser->state;
  size_t here = parser->ids.count - 1;
  if (is_stop(s, id)) {
    if (!chat_parser_flush(parser)) return false;
    chat_parser_close(parser, here, here + 1, /*closed=*/true);
    s->place = BETWEEN;
    return true;
  }
  char name[32];
  size_t size;
  bool special;
  const char *bytes = token_bytes(parser, id, name, &size, &special);
  if (size) return chat_parser_text(parser, bytes, size);
  parser->messages[parser->count - 1].view.malformed = true;
  return chat_parser_text(parser, "\xEF\xBF\xBD", 3);
}

static ie_status harmony_push(ie_chat_parser *parser, int32_t id, ie_error *error) {
  harmony_state *s = parser->state;
  bool ok = s->place == BETWEEN   ? push_between(parser, id)
            : s->place == HEADER  ? push_header(parser, id)
            : s->place == STOPPED ? push_stopped(parser, id)
                                  : push_text(parser, id);
  parser->complete = s->place == BETWEEN || s->place == STOPPED;
  return ok ? IE_OK : ie_error_set(error, IE_OUT_OF_MEMORY, "chat parser: out of memory");
}

static ie_status harmony_finish(ie_chat_parser *parser, ie_error *error) {
  harmony_state *s = parser->state;
  size_t end = parser->ids.count;
  bool ok = true;
  parser->complete = s->place == BETWEEN || s->place == STOPPED;
  if (s->place == STOPPED) {
    ok = header_abandon(parser, s->stop_id, s->stop_id + 1, /*closed=*/true);
  } else if (s->place == HEADER) {
    ok = header_abandon(parser, end, end, /*closed=*/false);
  } else if (s->place == TEXT) {
    ok = chat_parser_flush(parser);
    if (ok) chat_parser_close(parser, end, end, /*closed=*/false);
  }
  return ok ? IE_OK : ie_error_set(error, IE_OUT_OF_MEMORY, "chat parser: out of memory");
}

const chat_parser_ops harmony_parser_ops = {
    .open = harmony_open, .push = harmony_push, .finish = harmony_finish, .close = harmony_close};
