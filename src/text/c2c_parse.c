/* Reading looks for the two markers in the text; one space behind a marker belongs to it. */
#include "text/c2c_chat.h"
#include "text/chat_parser.h"
#include "text/chat_role.h"

#include <stdlib.h>
#include <string.h>

typedef struct c2c_state {
  const char *role; /* of the turn; NULL between turns */
  ie_buf held;      /* bytes that were not given to a message yet */
  bool strip;       /* a space in front of the text is left out */
  bool damaged;     /* the message to come is malformed */
} c2c_state;

static const struct {
  const char *text, *role;
} markers[] = {{C2C_HUMAN, "user"}, {C2C_ASSISTANT, "assistant"}};

enum { MARKERS = sizeof markers / sizeof markers[0] };

static ie_status c2c_open(ie_chat_parser *parser, const char *role, ie_error *error) {
  const char *known;
  ie_status status = chat_role_require(role, &known, error);
  if (status != IE_OK) return status;
  c2c_state *s = calloc(1, sizeof *s);
  if (!s) return ie_error_set(error, IE_OUT_OF_MEMORY, "chat: out of memory");
  parser->state = s;
  s->role = known;
  s->strip = known != NULL;
  parser->complete = !known;
  return IE_OK;
}

static void c2c_close(ie_chat_parser *parser) {
  c2c_state *s = parser->state;
  if (s) ie_buf_free(&s->held);
  free(s);
}

static void held_drop(c2c_state *s, size_t size) {
  if (!size) return;
  memmove(s->held.data, s->held.data + size, s->held.size - size);
  s->held.size -= size;
}

/* Where a text that begins now stands: at the id at hand, but not in the range of the message before it. */
static size_t text_id(const ie_chat_parser *parser) {
  size_t from = parser->count ? parser->messages[parser->count - 1].view.end_id : 0;
  return parser->ids.count && from < parser->ids.count ? parser->ids.count - 1 : from;
}

/* Gives the first bytes that are held to the turn's message, which is opened where it was not. */
static bool text_give(ie_chat_parser *parser, size_t size) {
  c2c_state *s = parser->state;
  if (s->strip && size && s->held.data[0] == ' ') {
    held_drop(s, 1);
    size--;
  }
  if (s->strip && size) s->strip = false;
  if (!parser->open) {
    chat_message *m = chat_parser_add(parser, text_id(parser));
    if (!m) return false;
    m->role = s->role;
    if (strcmp(s->role, "assistant") == 0 && !ie_buf_append_str(&m->channel, "final")) return false;
    m->view.malformed = s->damaged;
    s->damaged = false;
    chat_parser_opened(parser);
  }
  if (!size) return true;
  bool ok = chat_parser_text(parser, s->held.data, size);
  held_drop(s, size);
  return ok;
}

static bool turn_close(ie_chat_parser *parser, size_t content_end, bool closed) {
  c2c_state *s = parser->state;
  s->role = NULL;
  if (!chat_parser_flush(parser)) return false;
  chat_parser_close(parser, content_end, parser->ids.count, closed);
  return true;
}

static void turn_begin(c2c_state *s, size_t marker) {
  s->role = markers[marker].role;
  s->strip = true;
  held_drop(s, strlen(markers[marker].text));
}

/* Where the first marker begins that stands in the bytes, whole or cut off at their end; else their size and the number
 * of markers. */
static size_t marker_find(const ie_buf *bytes, size_t *marker, bool *whole) {
  for (size_t at = 0; at < bytes->size; at++)
    for (size_t i = 0; i < MARKERS; i++) {
      size_t length = strlen(markers[i].text), rest = bytes->size - at;
      *whole = rest >= length;
      *marker = i;
      if (memcmp(bytes->data + at, markers[i].text, *whole ? length : rest) == 0) return at;
    }
  *whole = false;
  *marker = MARKERS;
  return bytes->size;
}

static bool is_blank(const ie_buf *bytes, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (!strchr(" \t\r\n", bytes->data[i]) || !bytes->data[i]) return false;
  return true;
}

/* Reads what is held until a message was closed or more bytes are needed: an id closes one message at most. */
static bool held_read(ie_chat_parser *parser) {
  c2c_state *s = parser->state;
  size_t marker = 0;
  bool whole;
  size_t at = marker_find(&s->held, &marker, &whole);
  if (!s->role) {
    if (is_blank(&s->held, at)) {
      if (!whole) return true;
      held_drop(s, at);
      turn_begin(s, marker);
      return held_read(parser);
    }
    s->role = "assistant";
    s->strip = false;
    s->damaged = true;
    parser->malformed = true;
  }
  bool nothing = at == 0 || (s->strip && at == 1 && s->held.data[0] == ' ');
  if (!whole) return nothing || text_give(parser, at);
  if (!text_give(parser, at) || !turn_close(parser, parser->ids.count, /*closed=*/true)) return false;
  turn_begin(s, marker);
  return true;
}

/* What is held is all that comes: text of one message. */
static bool held_end(ie_chat_parser *parser, size_t content_end, bool closed) {
  c2c_state *s = parser->state;
  if (!s->role && is_blank(&s->held, s->held.size)) {
    ie_buf_clear(&s->held);
    return true;
  }
  if (!s->role) {
    s->role = "assistant";
    s->damaged = true;
    s->strip = false;
  }
  if (!closed && !parser->open && !s->held.size) return true;
  return text_give(parser, s->held.size) && turn_close(parser, content_end, closed);
}

static ie_status c2c_push(ie_chat_parser *parser, int32_t id, ie_error *error) {
  c2c_state *s = parser->state;
  size_t size;
  bool ok;
  if (id >= 0 && id == ie_tokenizer_special_id(parser->tokenizer, C2C_EOS)) {
    ok = held_end(parser, parser->ids.count - 1, /*closed=*/true);
  } else {
    const char *bytes = ie_tokenizer_token(parser->tokenizer, id, &size, NULL);
    if (!size) {
      parser->malformed = true;
      if (parser->open) {
        parser->messages[parser->count - 1].view.malformed = true;
      } else {
        s->damaged = true;
      }
    }
    ok = ie_buf_append(&s->held, size ? bytes : "\xEF\xBF\xBD", size ? size : 3) && held_read(parser);
  }
  parser->complete = !s->role;
  return ok ? IE_OK : ie_error_set(error, IE_OUT_OF_MEMORY, "chat parser: out of memory");
}

static ie_status c2c_finish(ie_chat_parser *parser, ie_error *error) {
  c2c_state *s = parser->state;
  parser->complete = !s->role;
  bool ok = held_end(parser, parser->ids.count, /*closed=*/false);
  return ok ? IE_OK : ie_error_set(error, IE_OUT_OF_MEMORY, "chat parser: out of memory");
}

const chat_parser_ops c2c_parser_ops = {
    .open = c2c_open, .push = c2c_push, .finish = c2c_finish, .close = c2c_close};
