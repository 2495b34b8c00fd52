#include "support/chat_property.h"

#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed_state;

void chat_draw_seed(uint64_t seed) {
  seed_state = seed;
}

uint32_t chat_draw(uint32_t limit) {
  seed_state = seed_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((seed_state >> 33) % limit);
}

/* ---- the properties ---- */

typedef struct bytes {
  char *data;
  size_t size, capacity;
} bytes;

static void append(bytes *b, const char *data, size_t size) {
  if (b->size + size + 1 > b->capacity) {
    b->capacity = 2 * (b->size + size + 1);
    b->data = realloc(b->data, b->capacity);
    assert_non_null(b->data);
  }
  memcpy(b->data + b->size, data, size);
  b->size += size;
  b->data[b->size] = '\0';
}

static void append_field(bytes *b, const char *field) {
  if (field) append(b, field, strlen(field));
  append(b, "\n", 1);
}

static void print_stream(const char *what, const chat_stream *s) {
  print_message("%s; role %s, ids:", what, s->role ? s->role : "null");
  for (size_t i = 0; i < s->count; i++) print_message(" %d", (int)s->ids[i]);
  print_message("\n");
}

#define REQUIRE(condition, s)                                                                                \
  do {                                                                                                       \
    if (!(condition)) {                                                                                      \
      print_stream(#condition, s);                                                                           \
      fail();                                                                                                \
    }                                                                                                        \
  } while (0)

static bool same(const char *a, const char *b) {
  return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

static void check_equal(const ie_chat_parser *a, const ie_chat_parser *b, const chat_stream *s) {
  REQUIRE(ie_chat_parser_count(a) == ie_chat_parser_count(b), s);
  REQUIRE(ie_chat_parser_complete(a) == ie_chat_parser_complete(b), s);
  REQUIRE(ie_chat_parser_malformed(a) == ie_chat_parser_malformed(b), s);
  for (size_t i = 0; i < ie_chat_parser_count(a); i++) {
    const ie_chat_parsed *x = ie_chat_parser_at(a, i), *y = ie_chat_parser_at(b, i);
    const ie_chat_message *m = &x->message, *n = &y->message;
    REQUIRE(same(m->role, n->role) && same(m->name, n->name) && same(m->channel, n->channel), s);
    REQUIRE(same(m->recipient, n->recipient) && same(m->content_type, n->content_type), s);
    REQUIRE(m->text_size == n->text_size && memcmp(m->text, n->text, m->text_size) == 0, s);
    REQUIRE(same(x->stray, y->stray) && x->closed == y->closed && x->malformed == y->malformed, s);
    REQUIRE(x->first_id == y->first_id && x->content_id == y->content_id, s);
    REQUIRE(x->content_end_id == y->content_end_id && x->end_id == y->end_id, s);
  }
}

/* The ranges of the messages and the rest, joined, are the ids. */
static void check_ranges(const ie_chat_parser *parser, const chat_stream *s) {
  const ie_ids *ids = ie_chat_parser_ids(parser);
  int32_t *joined = malloc((s->count + 1) * sizeof *joined);
  size_t n = 0, from = 0;
  for (size_t i = 0; i <= ie_chat_parser_count(parser); i++) {
    const ie_chat_parsed *m = i < ie_chat_parser_count(parser) ? ie_chat_parser_at(parser, i) : NULL;
    size_t first = m ? m->first_id : from, end = m ? m->end_id : ids->count;
    REQUIRE(first == from && first <= end && end <= ids->count, s);
    REQUIRE(!m || (m->first_id <= m->content_id && m->content_id <= m->content_end_id), s);
    REQUIRE(!m || m->content_end_id <= m->end_id, s);
    REQUIRE(!m || m->closed || m->end_id == ids->count, s);
    for (size_t k = first; k < end; k++) joined[n++] = ids->ids[k];
    from = end;
  }
  REQUIRE(n == s->count, s);
  REQUIRE(memcmp(joined, s->ids, n * sizeof *joined) == 0, s);
  free(joined);
}

/* A call that was taken out of its JSON, as formats without recipients have it. */
static bool is_json_call(const ie_chat_message *m) {
  return m->content_type && strcmp(m->content_type, "json") == 0 && m->recipient &&
         strncmp(m->recipient, "functions.", 10) == 0;
}

/* The name and the arguments stand in what the model wrote; the JSON around them is markup. */
static void collect_call(const chat_subject *subject, const ie_chat_parser *parser, const ie_chat_parsed *p,
                         bytes *out) {
  const ie_ids *ids = ie_chat_parser_ids(parser);
  const ie_chat_message *m = &p->message;
  ie_bytes raw = {0};
  ie_error error;
  assert_int_equal(ie_tokenizer_decode(subject->tokenizer, ids->ids + p->first_id, p->end_id - p->first_id,
                                       false, &raw, &error),
                   IE_OK);
  if (memmem(raw.data, raw.size, "name", 4) != NULL) { /* harmony says json too, without a name */
    assert_non_null(memmem(raw.data, raw.size, m->recipient + 10, strlen(m->recipient + 10)));
    if (!p->malformed) assert_non_null(memmem(raw.data, raw.size, m->text, m->text_size));
    append(out, raw.data, raw.size);
    append(out, "\n", 1);
  }
  ie_bytes_free(&raw);
}

/* Overwrites a format's plain-text markers, which are no one's text. */
static void blank_out(bytes *text, const char *marker) {
  char *p = text->data;
  while (marker && (p = memmem(p, text->size - (size_t)(p - text->data), marker, strlen(marker))) != NULL)
    memset(p, ' ', strlen(marker));
}

/* Everything that the parser returned, as lines. A content type and the text after it may be one word. */
static void collect(const chat_subject *subject, const ie_chat_parser *parser, bytes *out) {
  static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", "ipython"};
  for (size_t i = 0; i < 6; i++) { /* a header that holds an author and nothing else is no message */
    append(out, roles[i], strlen(roles[i]));
    append(out, ":\n", 2);
  }
  for (size_t i = 0; i < ie_chat_parser_count(parser); i++) {
    const ie_chat_parsed *p = ie_chat_parser_at(parser, i);
    const ie_chat_message *m = &p->message;
    append(out, m->role, strlen(m->role));
    append(out, ":", 1);
    append_field(out, m->name);
    append_field(out, m->channel);
    append_field(out, m->recipient);
    append_field(out, p->stray);
    if (m->content_type) append(out, m->content_type, strlen(m->content_type));
    append(out, m->text, m->text_size);
    append(out, "\n", 1);
    if (is_json_call(m)) collect_call(subject, parser, p, out);
  }
}

/* Where words end in this test: ASCII white space and controls, '<' (it ends a channel's name), and whatever is not
 * ASCII (ill-formed bytes are replaced, and other scripts have white space of their own). */
static bool in_word(char c) {
  return c > 0x20 && c < 0x7F && c != '<';
}

/* "to=" before a recipient is not part of it; an id that does not exist may stand inside. */
static void check_word(const bytes *found, const char *word, size_t size, const chat_stream *s) {
  static const char mark[] = "to=";
  bool there = memmem(found->data, found->size, word, size) != NULL;
  for (size_t cut = 0; cut < 3 && !there; cut++) {
    size_t length = 3 - cut;
    if (size < length || memcmp(word, mark + cut, length) != 0) continue;
    there = memmem(found->data, found->size, word + length, size - length) != NULL;
  }
  if (!there) print_message("lost: %.*s\nin: %.*s\n", (int)size, word, (int)found->size, found->data);
  REQUIRE(there, s);
}

/* Each word of each run of ordinary tokens stands somewhere in what was returned. */
static void check_words(const chat_subject *subject, const ie_chat_parser *parser, const chat_stream *s) {
  bytes found = {0}, run = {0};
  collect(subject, parser, &found);
  append(&run, "", 0);
  for (size_t i = 0; i <= s->count; i++) {
    size_t size = 0;
    bool special = false;
    const char *token =
        i < s->count ? ie_tokenizer_token(subject->tokenizer, s->ids[i], &size, &special) : "";
    if (i < s->count && size && !special) {
      append(&run, token, size);
      continue;
    }
    for (size_t m = 0; m < 4; m++) blank_out(&run, subject->markers[m]);
    for (size_t at = 0; at < run.size;) {
      size_t length = 0;
      while (at + length < run.size && in_word(run.data[at + length])) length++;
      if (length) check_word(&found, run.data + at, length, s);
      at += length ? length : 1;
    }
    run.size = 0;
  }
  free(found.data);
  free(run.data);
}

static bool is_utf8(const char *text, size_t size) {
  json_t *string = json_stringn(text, size); /* jansson refuses ill-formed UTF-8 */
  json_decref(string);
  return string != NULL;
}

/* Pushes the ids one by one and joins the pieces of each message. */
static ie_chat_parser *feed(const chat_subject *subject, const chat_stream *s) {
  ie_chat_parser *parser;
  ie_error error = {0};
  bytes pieces = {0};
  int64_t message = -1;
  assert_int_equal(ie_chat_parser_new(subject->format, subject->tokenizer, s->role, &parser, &error), IE_OK);
  for (size_t i = 0; i <= s->count; i++) {
    ie_chat_event event = {0};
    ie_status status = i < s->count ? ie_chat_parser_push(parser, s->ids[i], &event, &error)
                                    : ie_chat_parser_finish(parser, &event, &error);
    REQUIRE(status == IE_OK, s);
    REQUIRE(event.message < (int64_t)ie_chat_parser_count(parser), s);
    REQUIRE(event.opened == (event.message > message), s);
    REQUIRE(event.message < 0 || event.message == (int64_t)ie_chat_parser_count(parser) - 1, s);
    REQUIRE(is_utf8(event.text, event.text_size), s);
    if (event.opened) pieces.size = 0;
    if (event.message < 0) continue;
    message = event.message;
    append(&pieces, event.text, event.text_size);
    const ie_chat_message *m = &ie_chat_parser_at(parser, (size_t)message)->message;
    REQUIRE(pieces.size == m->text_size && memcmp(pieces.data, m->text, pieces.size) == 0, s);
  }
  REQUIRE(message + 1 == (int64_t)ie_chat_parser_count(parser), s);
  free(pieces.data);
  return parser;
}

/* The text from its first to its last ASCII word: renderers take white space off its ends. */
static void core(const char **text, size_t *size) {
  for (; *size && !in_word(**text); ++*text) --*size;
  while (*size && !in_word((*text)[*size - 1])) --*size;
}

/* What a chat does with these ids, taken as the assistant's answer: its messages, up to the first of somebody else, are
 * part of the next prompt. That prompt can be rendered, and says in their order all that was spoken and called. */
static void check_history(const chat_subject *subject, const chat_stream *s) {
  static const ie_chat_message question = {.role = "user", .text = "q", .text_size = 1};
  const ie_chat_options options = {.date = "2026-02-01"};
  ie_chat_parser *parser;
  ie_chat_prompt prompt;
  ie_error error = {0};
  REQUIRE(ie_chat_parse(subject->format, subject->tokenizer, "assistant", s->ids, s->count, &parser,
                        &error) == IE_OK,
          s);
  size_t count = ie_chat_parser_count(parser), said = 0;
  ie_chat_message *messages = malloc((count + 2) * sizeof *messages);
  assert_non_null(messages);
  messages[0] = question;
  for (; said < count; said++) {
    messages[said + 1] = ie_chat_parser_at(parser, said)->message;
    if (strcmp(messages[said + 1].role, "assistant") != 0) break;
  }
  messages[said + 1] = question;
  if (said > 0) { /* a chat takes back a turn without an answer */
    ie_status status = ie_chat_render_messages(subject->format, subject->tokenizer, messages, said + 2,
                                               &options, &prompt, &error);
    if (status != IE_OK) print_message("%s\n", error.message);
    REQUIRE(status == IE_OK, s);
    const char *at = prompt.text.data, *end = at + prompt.text.size;
    for (size_t i = 1; i <= said; i++) {
      const char *text = messages[i].text;
      size_t size = messages[i].text_size;
      if (messages[i].channel && strcmp(messages[i].channel, "analysis") == 0) continue;
      core(&text, &size);
      const char *found = size ? memmem(at, (size_t)(end - at), text, size) : at;
      if (!found) print_message("lost: %.*s\nin: %s\n", (int)size, text, prompt.text.data);
      REQUIRE(found, s);
      at = found + size;
    }
    ie_chat_prompt_free(&prompt);
  }
  free(messages);
  ie_chat_parser_free(parser);
}

void chat_check_stream(const chat_subject *subject, const chat_stream *s, bool valid) {
  ie_chat_parser *one = feed(subject, s), *all;
  ie_error error = {0};
  int32_t *exact =
      malloc((s->count ? s->count : 1) * sizeof *exact); /* so that a read beyond the end is seen */
  memcpy(exact, s->ids, s->count * sizeof *exact);
  REQUIRE(ie_chat_parse(subject->format, subject->tokenizer, s->role, exact, s->count, &all, &error) == IE_OK,
          s);
  free(exact);
  check_equal(one, all, s);
  check_ranges(one, s);
  check_words(subject, one, s);
  check_history(subject, s);
  if (valid) REQUIRE(!ie_chat_parser_malformed(one), s);
  ie_chat_parser_free(one);
  ie_chat_parser_free(all);
}

/* Removes, inserts, replaces, repeats, swaps, or takes a run from another stream. */
void chat_edit(const chat_subject *subject, chat_stream *s, size_t capacity) {
  size_t at = chat_draw((uint32_t)s->count + 1), room = capacity - s->count;
  const chat_stream *other = &subject->streams[chat_draw((uint32_t)subject->stream_count)];
  size_t from = chat_draw((uint32_t)other->count + 1), run = chat_draw(6);
  if (run > other->count - from) run = other->count - from;
  switch (chat_draw(6)) {
  case 0:
    if (at == s->count) return;
    memmove(s->ids + at, s->ids + at + 1, (s->count - at - 1) * sizeof *s->ids);
    s->count--;
    return;
  case 1:
    if (at < s->count) s->ids[at] = subject->any_id(subject);
    return;
  case 2:
    if (at + 1 >= s->count) return;
    int32_t id = s->ids[at];
    s->ids[at] = s->ids[at + 1];
    s->ids[at + 1] = id;
    return;
  case 3: s->count = at; return;
  case 4:
    if (!room) return;
    memmove(s->ids + at + 1, s->ids + at, (s->count - at) * sizeof *s->ids);
    s->ids[at] = at && chat_draw(2) ? s->ids[at - 1] : subject->any_id(subject);
    s->count++;
    return;
  default:
    if (room < run) return;
    memmove(s->ids + at + run, s->ids + at, (s->count - at) * sizeof *s->ids);
    memcpy(s->ids + at, other->ids + from, run * sizeof *s->ids);
    s->count += run;
  }
}

void chat_every_prefix(const chat_subject *subject) {
  for (size_t i = 0; i < subject->stream_count; i++)
    for (size_t count = 0; count <= subject->streams[i].count; count++) {
      chat_stream prefix = subject->streams[i];
      prefix.count = count;
      chat_check_stream(subject, &prefix, /*valid=*/count == subject->streams[i].count);
    }
}

void chat_random_edits(const chat_subject *subject, int rounds) {
  enum { CAPACITY = 1024 };
  int32_t ids[CAPACITY];
  size_t malformed = 0;
  chat_draw_seed(20260101);
  for (int n = 0; n < rounds; n++) {
    const chat_stream *from = &subject->streams[chat_draw((uint32_t)subject->stream_count)];
    chat_stream s = {.role = from->role, .ids = ids, .count = from->count};
    assert_true(from->count <= CAPACITY);
    memcpy(ids, from->ids, from->count * sizeof *ids);
    for (uint32_t k = chat_draw(6) + 1; k > 0; k--) chat_edit(subject, &s, CAPACITY);
    chat_check_stream(subject, &s, /*valid=*/false);
    ie_chat_parser *parser;
    ie_error error = {0};
    assert_int_equal(
        ie_chat_parse(subject->format, subject->tokenizer, s.role, s.ids, s.count, &parser, &error), IE_OK);
    malformed += ie_chat_parser_malformed(parser);
    ie_chat_parser_free(parser);
  }
  size_t least = (size_t)rounds / 10; /* the edits do damage, and not always */
  assert_in_range(malformed, least, (size_t)rounds - least);
}

void chat_random_ids(const chat_subject *subject, int rounds) {
  int32_t ids[64];
  static const char *const roles[] = {NULL, "assistant", "tool"};
  chat_draw_seed(7);
  for (int n = 0; n < rounds; n++) {
    chat_stream s = {.role = roles[chat_draw(3)], .ids = ids, .count = chat_draw(64)};
    for (size_t i = 0; i < s.count; i++) ids[i] = subject->any_id(subject);
    chat_check_stream(subject, &s, /*valid=*/false);
  }
}
