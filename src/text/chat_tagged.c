#include "text/chat_tagged.h"

#include "text/chat_call.h"
#include "text/chat_parser.h"
#include "text/chat_role.h"

#include <stdlib.h>
#include <string.h>

typedef enum tagged_place { BETWEEN, HEADER, TURN } tagged_place;

enum { ALL_LINES = 1 << 30 };

typedef struct tagged_state {
  const chat_grammar *grammar;
  int32_t ids[CHAT_TAGS_MAX]; /* of the grammar's tags; -1 where the tokenizer lacks one */
  tagged_place place;
  const char *role; /* of the turn */
  ie_buf stray;     /* what a header says beside a role */
  size_t said;      /* messages that the turn has closed */
  bool damaged;     /* the message to come is malformed */
  chat_segment segment;
  size_t segment_id; /* its first id */
  size_t strip;      /* line feeds to leave out before its text */
  size_t lines;      /* line feeds at its end that may be markup */
  ie_buf held;       /* a header, a call, or text that may become one */
} tagged_state;

static bool is_assistant(const tagged_state *s) {
  return strcmp(s->role, "assistant") == 0;
}

/* The role of these bytes as a constant, or NULL. */
static const char *role_constant(const char *text, size_t size) {
  chat_role role;
  return chat_role_find(text, size, &role) ? chat_role_name(role) : NULL;
}

static void segment_begin(tagged_state *s, chat_segment segment, size_t first_id, size_t strip) {
  s->segment = segment;
  s->segment_id = first_id;
  s->strip = strip;
  s->lines = 0;
  ie_buf_clear(&s->held);
}

static void turn_begin(tagged_state *s, const char *role, size_t first_id, size_t strip) {
  s->place = TURN;
  s->role = role;
  s->said = 0;
  segment_begin(s, CHAT_PLAIN, first_id, strip);
}

static ie_status tagged_open(ie_chat_parser *parser, const char *role, ie_error *error) {
  const char *known;
  ie_status status = chat_role_require(role, &known, error);
  if (status != IE_OK) return status;
  tagged_state *s = calloc(1, sizeof *s);
  if (!s) return ie_error_set(error, IE_OUT_OF_MEMORY, "chat: out of memory");
  parser->state = s;
  s->grammar = parser->format->grammar;
  for (size_t i = 0; s->grammar->tags[i].name; i++) {
    const chat_tag *tag = &s->grammar->tags[i];
    s->ids[i] = ie_tokenizer_special_id(parser->tokenizer, tag->name);
    if (s->ids[i] < 0 && tag->kind != CHAT_TAG_OPEN && tag->kind != CHAT_TAG_CLOSE &&
        tag->kind != CHAT_TAG_STOP)
      return ie_error_set(error, IE_UNSUPPORTED, "chat format %s: the tokenizer has no special token %s",
                          parser->format->name, tag->name);
  }
  if (known) turn_begin(s, known, 0, 0);
  parser->complete = !known;
  return IE_OK;
}

static void tagged_free(ie_chat_parser *parser) {
  tagged_state *s = parser->state;
  if (!s) return;
  ie_buf_free(&s->held);
  ie_buf_free(&s->stray);
  free(s);
}

/* ---- messages ---- */

/* Who speaks to whom. Strings are constants. */
typedef struct tagged_fields {
  const char *role, *name, *channel, *recipient, *content_type;
} tagged_fields;

static tagged_fields segment_fields(const tagged_state *s) {
  switch (s->segment) {
  case CHAT_THINK: return (tagged_fields){.role = s->role, .channel = "analysis"};
  case CHAT_CODE:
    return (tagged_fields){
        .role = s->role, .channel = "commentary", .recipient = "python", .content_type = "code"};
  case CHAT_OUTPUT:
    return (tagged_fields){
        .role = "tool", .name = "python", .channel = "commentary", .recipient = "assistant"};
  case CHAT_CALL:
  case CHAT_PYTHON: return (tagged_fields){.role = s->role, .channel = "commentary"};
  case CHAT_PLAIN: break;
  }
  return (tagged_fields){.role = s->role, .channel = is_assistant(s) ? "final" : NULL};
}

static bool field_put(ie_buf *out, const char *text) {
  return !text || ie_buf_append_str(out, text);
}

/* Opens a message with these fields. NULL when memory is out. */
static chat_message *message_open(ie_chat_parser *parser, const tagged_fields *f) {
  tagged_state *s = parser->state;
  chat_message *m = chat_parser_add(parser, s->segment_id);
  if (!m) return NULL;
  m->role = f->role;
  bool ok = field_put(&m->name, f->name) && field_put(&m->channel, f->channel) &&
            field_put(&m->recipient, f->recipient) && field_put(&m->content_type, f->content_type);
  if (!ok) return NULL;
  m->stray = s->stray;
  s->stray = (ie_buf){0};
  m->view.malformed = s->damaged;
  s->damaged = false;
  chat_parser_opened(parser);
  return m;
}

static bool segment_open(ie_chat_parser *parser) {
  if (parser->open) return true;
  tagged_fields fields = segment_fields(parser->state);
  return message_open(parser, &fields) != NULL;
}

/* Where a segment ends. */
typedef struct tagged_end {
  size_t content, ids; /* its text ends before this id, its range before that one */
  bool closed;         /* by a token */
  bool malformed;      /* by the wrong one */
} tagged_end;

static void message_close(ie_chat_parser *parser, const tagged_end *end) {
  tagged_state *s = parser->state;
  if (end->malformed) parser->messages[parser->count - 1].view.malformed = true;
  chat_parser_close(parser, end->content, end->ids, end->closed);
  s->said++;
}

static bool lines_put(ie_chat_parser *parser) {
  tagged_state *s = parser->state;
  bool ok = !s->lines || segment_open(parser);
  for (; ok && s->lines; s->lines--) ok = chat_parser_text(parser, "\n", 1);
  return ok;
}

/* Gives the open segment's message the text that was held, as it is. */
static bool held_put(ie_chat_parser *parser) {
  tagged_state *s = parser->state;
  bool ok = segment_open(parser) && chat_parser_text(parser, s->held.data ? s->held.data : "", s->held.size);
  ie_buf_clear(&s->held);
  return ok;
}

/* NAME of a text NAME.call( in *size; 0: it is none. */
static size_t builtin_name(const ie_buf *text) {
  static const char mark[] = ".call(";
  const char *end = text->size ? memmem(text->data, text->size, mark, strlen(mark)) : NULL;
  size_t size = end ? (size_t)(end - text->data) : 0;
  for (size_t i = 0; i < size; i++) {
    char c = text->data[i];
    if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_')) return 0;
  }
  return size;
}

/* A call that is complete, or as far as it goes. */
static bool call_put(ie_chat_parser *parser, const chat_call_text *call) {
  tagged_state *s = parser->state;
  tagged_fields fields = {.role = s->role, .channel = "commentary", .content_type = "json"};
  if (call->malformed) s->damaged = true;
  chat_message *m = message_open(parser, &fields);
  if (!m) return false;
  if (call->stray.size && m->stray.size) ie_buf_append_char(&m->stray, ' ');
  if (call->stray.size) ie_buf_append(&m->stray, call->stray.data, call->stray.size);
  ie_buf_append_str(&m->recipient, "functions.");
  ie_buf_append(&m->recipient, call->name, call->name_size);
  chat_parser_opened(parser);
  return !m->stray.failed && !m->recipient.failed &&
         chat_parser_text(parser, call->arguments, call->arguments_size);
}

/* Code of <|python_tag|>: for a built-in tool, or for Python. */
static bool python_put(ie_chat_parser *parser) {
  tagged_state *s = parser->state;
  size_t name = builtin_name(&s->held);
  tagged_fields fields = {
      .role = s->role, .channel = "commentary", .recipient = name ? NULL : "python", .content_type = "code"};
  chat_message *m = message_open(parser, &fields);
  if (!m || (name && !ie_buf_append(&m->recipient, s->held.data, name))) return false;
  chat_parser_opened(parser);
  return held_put(parser);
}

/* The message of a segment that was held back. */
static bool held_message(ie_chat_parser *parser, const tagged_end *end) {
  tagged_state *s = parser->state;
  chat_call_text call;
  chat_call_result result = chat_call_read(s->held.data, s->held.size, &call);
  bool ok = result != CHAT_CALL_NO_MEMORY;
  if (s->segment == CHAT_PLAIN && call.malformed)
    result = CHAT_CALL_OTHER; /* an answer in JSON that has a name */
  if (ok && result == CHAT_CALL_OK) {
    ok = call_put(parser, &call);
  } else if (ok && s->segment == CHAT_PYTHON) {
    ok = python_put(parser);
  } else if (ok) {
    if (s->segment == CHAT_CALL && end->closed) s->damaged = true;
    ok = held_put(parser);
  }
  ie_buf_free(&call.stray);
  ie_buf_clear(&s->held);
  return ok;
}

/* Ends the segment at hand. markup: how many line feeds before the ending token belong to it. */
static bool segment_end(ie_chat_parser *parser, const tagged_end *end, size_t markup) {
  tagged_state *s = parser->state;
  bool ok = true;
  bool held = s->held.size || s->segment == CHAT_CALL || s->segment == CHAT_PYTHON;
  if (held && !parser->open) {
    ok = held_message(parser, end);
  } else {
    s->lines -= s->lines < markup ? s->lines : markup;
    bool silent = markup && !parser->open; /* nothing but line feeds before a token */
    if (!silent) ok = lines_put(parser);
    if (ok && (s->segment == CHAT_CODE || s->segment == CHAT_OUTPUT)) ok = segment_open(parser);
  }
  s->lines = 0;
  if (ok && s->stray.size) ok = segment_open(parser); /* what the header said must stand somewhere */
  if (!ok) return false;
  if (!parser->open) {
    if (end->malformed) parser->malformed = true;
    return true;
  }
  if (!chat_parser_flush(parser)) return false;
  message_close(parser, end);
  return true;
}

/* ---- text ---- */

/* Text that is shown at once. */
static bool text_stream(ie_chat_parser *parser, const char *bytes, size_t size) {
  tagged_state *s = parser->state;
  size_t end = size;
  bool hold =
      s->grammar->trim_lines && is_assistant(s) && (s->segment == CHAT_PLAIN || s->segment == CHAT_THINK);
  while (hold && end && bytes[end - 1] == '\n') end--;
  bool ok = true;
  if (end) ok = lines_put(parser) && segment_open(parser) && chat_parser_text(parser, bytes, end);
  s->lines += size - end;
  return ok;
}

static bool text_add(ie_chat_parser *parser, const char *bytes, size_t size) {
  tagged_state *s = parser->state;
  for (; size && s->strip && *bytes == '\n'; bytes++, size--) s->strip -= s->strip != ALL_LINES;
  if (!size) return true;
  s->strip = 0;
  if (s->segment == CHAT_CALL || s->segment == CHAT_PYTHON) return ie_buf_append(&s->held, bytes, size);
  if (s->segment != CHAT_PLAIN || !s->grammar->json_calls || !is_assistant(s) || parser->open)
    return text_stream(parser, bytes, size);
  if (!ie_buf_append(&s->held, bytes, size)) return false;
  return chat_call_may_begin(s->held.data, s->held.size) || held_put(parser);
}

/* The bytes of an id; what no token has is U+FFFD, and the message it stands in is malformed. */
static const char *id_bytes(ie_chat_parser *parser, int32_t id, size_t *size) {
  tagged_state *s = parser->state;
  const char *bytes = ie_tokenizer_token(parser->tokenizer, id, size, NULL);
  if (*size) return bytes;
  parser->malformed = true;
  if (parser->open) {
    parser->messages[parser->count - 1].view.malformed = true;
  } else {
    s->damaged = true;
  }
  *size = 3;
  return "\xEF\xBF\xBD";
}

/* ---- headers ---- */

/* Not NUL, which strchr would find. */
static bool is_blank(char c) {
  return c && strchr(" \t\r\n", c);
}

static void header_begin(tagged_state *s, size_t first_id) {
  s->place = HEADER;
  s->segment_id = first_id;
  ie_buf_clear(&s->held);
}

static void header_trim(const char **text, size_t *size) {
  for (; *size && is_blank(**text); ++*text) --*size;
  while (*size && is_blank((*text)[*size - 1])) --*size;
}

/* Appends the words of a header, joined by spaces: a field holds no control characters. */
static bool stray_words(ie_buf *out, const char *text, size_t size) {
  for (size_t at = 0; at < size;) {
    size_t length = 0;
    while (at + length < size && (unsigned char)text[at + length] > 0x20 && text[at + length] != 0x7F)
      length++;
    if (length && out->size) ie_buf_append_char(out, ' ');
    if (length && !chat_text_lossy(out, text + at, length)) return false;
    at += length ? length : 1;
  }
  return !out->failed;
}

/* The header is complete: `rest` bytes behind its line are text. */
static bool header_end(ie_chat_parser *parser, const char *rest, size_t rest_size, size_t text_id) {
  tagged_state *s = parser->state;
  const char *text = s->held.data ? s->held.data : "";
  size_t size = s->held.size;
  header_trim(&text, &size);
  const char *role = role_constant(text, size);
  if (!role) {
    s->damaged = true;
    parser->malformed = true;
    if (!stray_words(&s->stray, text, size)) return false;
  }
  turn_begin(s, role ? role : "assistant", text_id, s->grammar->header_lines);
  return text_add(parser, rest, rest_size);
}

/* A header that ended otherwise: what it says is text of the assistant, unless that is nothing but a role. */
static bool header_abandon(ie_chat_parser *parser, const tagged_end *end) {
  tagged_state *s = parser->state;
  parser->malformed = true;
  s->place = BETWEEN;
  const char *text = s->held.data ? s->held.data : "";
  size_t size = s->held.size;
  header_trim(&text, &size);
  if (!size || role_constant(text, size)) return true;
  s->role = "assistant";
  s->segment = CHAT_PLAIN;
  s->damaged = true;
  if (!held_put(parser) || !chat_parser_flush(parser)) return false;
  message_close(parser, end);
  return true;
}

static bool header_add(ie_chat_parser *parser, int32_t id) {
  tagged_state *s = parser->state;
  size_t size, here = parser->ids.count - 1;
  const char *bytes = id_bytes(parser, id, &size);
  const char *line = s->grammar->line_header ? memchr(bytes, '\n', size) : NULL;
  if (!ie_buf_append(&s->held, bytes, line ? (size_t)(line - bytes) : size)) return false;
  if (!line) return true;
  size_t rest = size - (size_t)(line - bytes) - 1;
  return header_end(parser, line + 1, rest, rest ? here : here + 1);
}

/* ---- ids ---- */

static const chat_tag *tag_find(const tagged_state *s, int32_t id) {
  for (size_t i = 0; id >= 0 && s->grammar->tags[i].name; i++)
    if (s->ids[i] == id) return &s->grammar->tags[i];
  return NULL;
}

static bool push_between(ie_chat_parser *parser, int32_t id, const chat_tag *tag) {
  tagged_state *s = parser->state;
  size_t here = parser->ids.count - 1, size;
  chat_tag_kind kind = tag ? tag->kind : (chat_tag_kind)0;
  if (kind == CHAT_TAG_HEADER) {
    header_begin(s, here + 1);
    return true;
  }
  if (kind == CHAT_TAG_ROLE) {
    turn_begin(s, tag->role, here + 1, 0);
    return true;
  }
  if (kind == CHAT_TAG_STOP) return true;
  const char *bytes = ie_tokenizer_token(parser->tokenizer, id, &size, NULL);
  size_t blank = 0;
  while (!tag && blank < size && is_blank(bytes[blank])) blank++;
  if (size && blank == size) return true; /* such as the line feed behind <|im_end|> */
  parser->malformed = true;
  if (!size || kind == CHAT_TAG_END || kind == CHAT_TAG_HEADER_END || kind == CHAT_TAG_CLOSE) return true;
  turn_begin(s, "assistant", here, 0);
  s->damaged = true;
  if (kind == CHAT_TAG_OPEN) {
    segment_begin(s, tag->segment, here + 1, s->grammar->trim_lines ? ALL_LINES : 0);
    return true;
  }
  return text_add(parser, bytes, size);
}

static bool push_header(ie_chat_parser *parser, int32_t id, const chat_tag *tag) {
  size_t here = parser->ids.count - 1;
  tagged_end end = {.content = here, .ids = here + 1, .closed = true};
  switch (tag ? tag->kind : (chat_tag_kind)0) {
  case CHAT_TAG_HEADER_END: return header_end(parser, "", 0, here + 1);
  case CHAT_TAG_END:
  case CHAT_TAG_STOP: return header_abandon(parser, &end);
  case CHAT_TAG_HEADER:
  case CHAT_TAG_ROLE: end.ids = here; return header_abandon(parser, &end) && push_between(parser, id, tag);
  default: return header_add(parser, id);
  }
}

/* Ends the turn: one that said nothing is an empty message. */
static bool turn_end(ie_chat_parser *parser, const tagged_end *end) {
  tagged_state *s = parser->state;
  tagged_end at = *end;
  if (s->segment != CHAT_PLAIN && s->segment != CHAT_PYTHON) at.malformed = true; /* it was not closed */
  bool ok = segment_end(parser, &at, /*markup=*/0);
  if (ok && !s->said) {
    segment_begin(s, CHAT_PLAIN, s->segment_id, 0);
    ok = segment_open(parser);
    if (ok) message_close(parser, &at);
  }
  s->place = BETWEEN;
  return ok;
}

/* </think> in a text whose prompt had opened <think>: what was said until here is reasoning. */
static bool think_end(ie_chat_parser *parser, const tagged_end *end) {
  tagged_state *s = parser->state;
  tagged_end at = *end;
  at.malformed = true;
  s->lines = 0;
  if (parser->open) {
    chat_message *m = &parser->messages[parser->count - 1];
    ie_buf_clear(&m->channel);
    if (!ie_buf_append_str(&m->channel, "analysis")) return false;
  }
  return segment_end(parser, &at, ALL_LINES);
}

static bool segment_tag(ie_chat_parser *parser, int32_t id, const chat_tag *tag) {
  tagged_state *s = parser->state;
  size_t here = parser->ids.count - 1, size;
  size_t strip = s->grammar->trim_lines ? ALL_LINES : 0;
  tagged_end closed = {.content = here, .ids = here + 1, .closed = true};
  tagged_end opened = {.content = here, .ids = here, .closed = true, .malformed = s->segment != CHAT_PLAIN};
  bool call = s->segment == CHAT_CALL || s->segment == CHAT_PYTHON;
  if (is_assistant(s) && tag->kind == CHAT_TAG_CLOSE && tag->segment == s->segment) {
    bool ok = segment_end(parser, &closed, s->segment == CHAT_THINK ? ALL_LINES : 0);
    segment_begin(s, CHAT_PLAIN, here + 1, strip);
    return ok;
  }
  if (is_assistant(s) && tag->kind == CHAT_TAG_OPEN && tag->segment != s->segment &&
      (!call || tag->segment != CHAT_THINK)) {
    bool ok = segment_end(parser, &opened, s->segment == CHAT_THINK ? ALL_LINES : strip ? 1 : 0);
    segment_begin(s, tag->segment, here + 1, strip);
    return ok;
  }
  if (is_assistant(s) && tag->segment == CHAT_THINK && tag->kind == CHAT_TAG_CLOSE &&
      s->segment == CHAT_PLAIN && !s->said) {
    bool ok = think_end(parser, &closed);
    segment_begin(s, CHAT_PLAIN, here + 1, strip);
    return ok;
  }
  if (is_assistant(s)) {
    parser->malformed = true;
    if (parser->open) {
      parser->messages[parser->count - 1].view.malformed = true;
    } else {
      s->damaged = true;
    }
  }
  const char *bytes = id_bytes(parser, id, &size);
  return text_add(parser, bytes, size);
}

static bool push_turn(ie_chat_parser *parser, int32_t id, const chat_tag *tag) {
  tagged_state *s = parser->state;
  size_t here = parser->ids.count - 1, size;
  tagged_end end = {.content = here, .ids = here + 1, .closed = true};
  switch (tag ? tag->kind : (chat_tag_kind)0) {
  case CHAT_TAG_END:
  case CHAT_TAG_STOP: return turn_end(parser, &end);
  case CHAT_TAG_HEADER:
  case CHAT_TAG_ROLE:
    end.ids = here;
    end.malformed = true;
    if (!segment_end(parser, &end, /*markup=*/0)) return false;
    s->place = BETWEEN;
    return push_between(parser, id, tag);
  case CHAT_TAG_OPEN:
  case CHAT_TAG_CLOSE: return segment_tag(parser, id, tag);
  default: break;
  }
  const char *bytes = id_bytes(parser, id, &size);
  return text_add(parser, bytes, size);
}

static ie_status tagged_push(ie_chat_parser *parser, int32_t id, ie_error *error) {
  tagged_state *s = parser->state;
  const chat_tag *tag = tag_find(s, id);
  bool ok = s->place == BETWEEN  ? push_between(parser, id, tag)
            : s->place == HEADER ? push_header(parser, id, tag)
                                 : push_turn(parser, id, tag);
  parser->complete = s->place == BETWEEN;
  return ok ? IE_OK : ie_error_set(error, IE_OUT_OF_MEMORY, "chat parser: out of memory");
}

static ie_status tagged_finish(ie_chat_parser *parser, ie_error *error) {
  tagged_state *s = parser->state;
  size_t end = parser->ids.count;
  tagged_end cut = {.content = end, .ids = end};
  bool ok = true;
  parser->complete = s->place == BETWEEN;
  if (s->place == HEADER) {
    ok = header_abandon(parser, &cut);
  } else if (s->place == TURN && (parser->open || s->held.size || s->lines || s->stray.size)) {
    ok = segment_end(parser, &cut, /*markup=*/0);
  }
  return ok ? IE_OK : ie_error_set(error, IE_OUT_OF_MEMORY, "chat parser: out of memory");
}

const chat_parser_ops chat_tagged_ops = {
    .open = tagged_open, .push = tagged_push, .finish = tagged_finish, .close = tagged_free};
