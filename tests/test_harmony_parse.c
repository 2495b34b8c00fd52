/* What models write, read back: as the reference library reads it where that can, repaired where it cannot. */
#include "support/chat_data.h"

#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdlib.h>
#include <string.h>

enum { START = 200006, MESSAGE = 200008, END = 200007, RETURN = 200002, CHANNEL = 200005, CALL = 200012 };

static ie_tokenizer *tokenizer;

static int setup(void **state) {
  (void)state;
  tokenizer = chat_tokenizer();
  return 0;
}

static int teardown(void **state) {
  (void)state;
  ie_tokenizer_free(tokenizer);
  return 0;
}

static bool same_text(const char *a, const char *b) {
  return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

static bool same_content(const ie_chat_message *m, const json_t *expected) {
  const json_t *text = json_object_get(expected, "text");
  return same_text(m->channel, chat_string(expected, "channel")) &&
         m->text_size == json_string_length(text) &&
         memcmp(m->text, json_string_value(text), m->text_size) == 0;
}

static bool same_message(const ie_chat_message *m, const json_t *expected) {
  return same_content(m, expected) && same_text(m->role, chat_string(expected, "role")) &&
         same_text(m->name, chat_string(expected, "name")) &&
         same_text(m->recipient, chat_string(expected, "recipient")) &&
         same_text(m->content_type, chat_string(expected, "content_type"));
}

/* The parser's messages are these; `whole` compares all fields, else channel and text. At least these, with
 * `more`. */
static bool same_messages(const ie_chat_parser *parser, const json_t *expected, bool whole, bool more) {
  size_t count = json_array_size(expected), found = ie_chat_parser_count(parser);
  if (more ? found < count : found != count) return false;
  for (size_t i = 0; i < count; i++) {
    const ie_chat_message *m = &ie_chat_parser_at(parser, i)->message;
    if (!(whole ? same_message : same_content)(m, json_array_get(expected, i))) return false;
  }
  return true;
}

static ie_chat_parser *parse(const ie_tokenizer *t, const char *role, const int32_t *ids, size_t count) {
  ie_chat_parser *parser;
  ie_error error = {0};
  if (ie_chat_parse(chat_harmony(), t, role, ids, count, &parser, &error) != IE_OK)
    fail_msg("%s", error.message);
  return parser;
}

/* The streaming view: S between messages, H in a header, C in a text, after each id. */
static void check_states(const ie_tokenizer *t, const json_t *row, const int32_t *ids, size_t count) {
  const char *states = chat_string(json_object_get(row, "strict"), "states");
  if (!states || strlen(states) != count) return;
  ie_chat_parser *parser;
  ie_error error = {0};
  assert_int_equal(ie_chat_parser_new(chat_harmony(), t, chat_string(row, "role"), &parser, &error), IE_OK);
  for (size_t i = 0; i < count; i++) {
    ie_chat_event event;
    assert_int_equal(ie_chat_parser_push(parser, ids[i], &event, &error), IE_OK);
    bool open = event.message >= 0 && !event.closed;
    char found = ie_chat_parser_complete(parser) ? 'S' : open ? 'C' : 'H';
    if (found != states[i])
      fail_msg("%s: id %zu: state %c, expected %c", chat_string(row, "case"), i, found, states[i]);
  }
  ie_chat_parser_free(parser);
}

static void check_row(const ie_tokenizer *t, const json_t *row) {
  const char *name = chat_string(row, "case");
  const json_t *strict = json_object_get(row, "strict"), *lenient = json_object_get(row, "lenient");
  if (json_is_string(lenient)) lenient = strict;
  const json_t *messages = json_object_get(strict, "messages"), *other = json_object_get(lenient, "messages");
  size_t count;
  int32_t *ids = chat_ids(json_object_get(row, "ids"), &count);
  ie_chat_parser *parser = parse(t, chat_string(row, "role"), ids, count);
  if (!messages || json_object_get(row, "unknown_id")) {
    if (!same_messages(parser, json_object_get(strict, "messages_before_error"), true, /*more=*/true))
      fail_msg("%s: messages before the error are lost", name);
    if (other && !json_object_get(row, "unknown_id") && !same_messages(parser, other, true, false))
      fail_msg("%s: not the lenient answer", name);
    if (json_object_get(row, "unknown_id")) assert_true(ie_chat_parser_malformed(parser));
  } else if (json_is_true(json_object_get(row, "doubtful"))) {
    if (!same_messages(parser, messages, false, false) &&
        !(other && same_messages(parser, other, false, false)))
      fail_msg("%s: neither the strict nor the lenient messages", name);
    assert_true(ie_chat_parser_malformed(parser));
  } else {
    if (!same_messages(parser, messages, true, false))
      fail_msg("%s: other messages than the library's", name);
    if (ie_chat_parser_malformed(parser)) fail_msg("%s: called malformed", name);
    check_states(t, row, ids, count);
  }
  ie_chat_parser_free(parser);
  free(ids);
}

static size_t check_file(const ie_tokenizer *t, const char *path) {
  json_t *rows = chat_rows(path);
  size_t count = json_array_size(rows);
  for (size_t i = 0; i < count; i++) check_row(t, json_array_get(rows, i));
  json_decref(rows);
  return count;
}

static void streams_equal_the_library(void **state) {
  (void)state;
  assert_true(check_file(tokenizer, "parse.jsonl") >= 50);
}

static void all_golden_streams(void **state) {
  (void)state;
  chat_golden_check("golden/text/harmony/parse.jsonl", check_file, 70);
}

/* ---- what the library has no answer for ---- */

typedef struct repair {
  const char *role;
  const char *stream; /* special tokens by their names */
  size_t count;       /* messages; the last one is: */
  const char *author, *channel, *recipient, *content_type, *text, *stray;
  bool complete, malformed;
} repair;

static const repair repairs[] = {
    {NULL, "<|start|>user:ann<|message|>x<|end|>", 1, "user", NULL, NULL, NULL, "x", NULL, true, false},
    {NULL, "<|start|>zoo.feed<|channel|>commentary<|message|>x<|end|>", 1, "tool", "commentary", NULL, NULL,
     "x", NULL, true, false},
    {NULL, "<|start|>wizard<|message|>x<|end|>", 1, "tool", NULL, NULL, NULL, "x", NULL, true, true},
    {"assistant", "<|channel|>commentary to=f <|constrain|> json<|message|>{}<|call|>", 1, "assistant",
     "commentary", "f", "<|constrain|>json", "{}", NULL, true, false},
    {"assistant", "<|channel|>final <|constrain|>json<|message|>{}<|return|>", 1, "assistant", "final", NULL,
     "<|constrain|>json", "{}", NULL, true, true},
    {"assistant", "Well, now:<|channel|>final<|message|>x<|return|>", 1, "assistant", "final", NULL, NULL,
     "x", "Well, now:", true, true},
    {"assistant", "<|channel|>analysis a b c to=f json d<|message|>x", 1, "assistant", "analysis", "f",
     "json", "x", "d a b c", false, true},
    {"assistant", "to=a<|channel|>commentary to=b<|message|>x<|call|>", 1, "assistant", "commentary", "b",
     NULL, "x", "to=a", true, true},
    {"assistant", "<|channel|>commentary f.g <|constrain|>json<|message|>x<|call|>", 1, "assistant",
     "commentary", "f.g", "<|constrain|>json", "x", NULL, true, true},
    {"assistant", "<|channel|>analysis<|channel|>final<|message|>x<|end|>", 1, "assistant", "analysis", NULL,
     NULL, "x", "final", true, true},
    {"assistant", "<|channel|>fi", 1, "assistant", "fi", NULL, NULL, "", NULL, false, true},
    {"assistant", "<|channel|>analysis what now<|end|>", 1, "assistant", "analysis", NULL, NULL, "what now",
     NULL, true, true},
    {"assistant", "to=f<|channel|>commentary <|constrain|>json{\"a\":1}<|call|>", 1, "assistant",
     "commentary", "f", "<|constrain|>json", "{\"a\":1}", NULL, true, true},
    {"assistant", "<|channel|>a<|channel|>b c<|end|>", 1, "assistant", "a", NULL, NULL, "<|channel|>b c",
     NULL, true, true},
    {"assistant",
     "<|channel|>final<|message|>x<|end|>and more<|start|>assistant<|channel|>final<|message|>y<|return|>", 3,
     "assistant", "final", NULL, NULL, "y", NULL, true, true},
    {"assistant", "<|channel|>final<|message|>x<|return|>and more", 2, "assistant", NULL, NULL, NULL,
     "and more", NULL, false, true},
    {"assistant", "<|channel|>final<|message|>x<|end|> \n", 1, "assistant", "final", NULL, NULL, "x", NULL,
     false, true},
    {"assistant", "<|channel|>final<|message|>x<|end|><|message|>y<|end|>", 2, "assistant", NULL, NULL, NULL,
     "y", NULL, true, true},
    {NULL, "<|start|>assistant", 0, NULL, NULL, NULL, NULL, NULL, NULL, false, true},
    {NULL, "<|start|>zoo.feed to=assistant<|end|>", 1, "tool", NULL, "assistant", NULL, "", NULL, true, true},
    {NULL, "<|start|><|start|>user<|message|>x<|end|>", 1, "user", NULL, NULL, NULL, "x", NULL, true, true},
    {"assistant", "<|channel|>final<|start|><|message|>x<|end|>", 1, "assistant", "final", NULL, NULL, "x",
     NULL, true, true},
    {"tool", "tool that<|end|>", 1, "tool", NULL, NULL, NULL, "that", NULL, true, true},
    {"assistant", "<|channel|>final<|end|><|message|>x<|return|>", 1, "assistant", "final", NULL, NULL, "x",
     NULL, true, true},
    {"assistant", "<|channel|>final<|end|><|start|>user<|message|>x<|end|>", 2, "user", NULL, NULL, NULL, "x",
     NULL, true, true},
    {"assistant", "<|channel|>final<|end|>", 1, "assistant", "final", NULL, NULL, "", NULL, true, true},
    {"assistant", "<|channel|>final<|end|><|end|>", 1, "assistant", "final", NULL, NULL, "", NULL, true,
     true},
    {"assistant", "assistant<|end|>", 0, NULL, NULL, NULL, NULL, NULL, NULL, true, true},
    {"assistant", "", 0, NULL, NULL, NULL, NULL, NULL, NULL, false, true},
    {NULL, "", 0, NULL, NULL, NULL, NULL, NULL, NULL, true, false},
};

static void damage_is_repaired(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof repairs / sizeof repairs[0]; i++) {
    const repair *r = &repairs[i];
    ie_ids ids = {0};
    ie_error error = {0};
    assert_int_equal(ie_tokenizer_encode(tokenizer, r->stream, strlen(r->stream), NULL, &ids, &error), IE_OK);
    ie_chat_parser *parser = parse(tokenizer, r->role, ids.ids, ids.count);
    if (ie_chat_parser_count(parser) != r->count)
      fail_msg("%s: %zu messages", r->stream, ie_chat_parser_count(parser));
    if (r->count) {
      const ie_chat_parsed *p = ie_chat_parser_at(parser, r->count - 1);
      const ie_chat_message *m = &p->message;
      if (!same_text(m->role, r->author) || !same_text(m->channel, r->channel) ||
          !same_text(m->recipient, r->recipient) || !same_text(m->content_type, r->content_type) ||
          !same_text(m->text, r->text) || !same_text(p->stray, r->stray))
        fail_msg("%s: channel %s, recipient %s, type %s, text %s, stray %s", r->stream, m->channel,
                 m->recipient, m->content_type, m->text, p->stray);
    }
    if (ie_chat_parser_complete(parser) != r->complete || ie_chat_parser_malformed(parser) != r->malformed)
      fail_msg("%s: complete %d, malformed %d", r->stream, ie_chat_parser_complete(parser),
               ie_chat_parser_malformed(parser));
    ie_chat_parser_free(parser);
    ie_ids_free(&ids);
  }
}

/* Text comes as soon as it is a whole character; the header is known before the first of it. */
static void text_is_streamed(void **state) {
  (void)state;
  ie_ids stream = {0};
  ie_error error = {0};
  const char text[] = "<|channel|>final<|message|>a";
  assert_int_equal(ie_tokenizer_encode(tokenizer, text, sizeof text - 1, NULL, &stream, &error), IE_OK);
  static const int32_t rest[] = {172, 253, 247, 224, 65, RETURN}; /* the bytes of U+1F642, "b" */
  assert_int_equal(ie_ids_append(&stream, rest, 6, &error), IE_OK);
  size_t header = stream.count - 8; /* ids before <|message|> */
  ie_chat_parser *parser;
  assert_int_equal(ie_chat_parser_new(chat_harmony(), tokenizer, "assistant", &parser, &error), IE_OK);
  static const char *const pieces[] = {"", "a", "", "", "", "\xF0\x9F\x99\x82", "b", ""};
  for (size_t i = 0; i < stream.count; i++) {
    ie_chat_event event;
    assert_int_equal(ie_chat_parser_push(parser, stream.ids[i], &event, &error), IE_OK);
    assert_int_equal(event.opened, i == header);
    assert_int_equal(event.closed, i + 1 == stream.count);
    assert_int_equal(event.message, i < header ? IE_CHAT_NO_MESSAGE : 0);
    if (i < header) continue;
    assert_string_equal(ie_chat_parser_at(parser, 0)->message.channel, "final");
    assert_int_equal(event.text_size, strlen(pieces[i - header]));
    assert_memory_equal(event.text, pieces[i - header], event.text_size);
  }
  const ie_chat_parsed *message = ie_chat_parser_at(parser, 0);
  assert_int_equal(message->first_id, 0);
  assert_int_equal(message->content_id, header + 1);
  assert_int_equal(message->content_end_id, stream.count - 1);
  assert_int_equal(message->end_id, stream.count);
  assert_true(message->closed);
  ie_chat_parser_free(parser);
  ie_ids_free(&stream);
}

/* One U+FFFD for each maximal part of ill-formed bytes, in a text and in a header that became a text. */
static void illformed_bytes_are_replaced(void **state) {
  (void)state;
  static const int32_t text[] = {MESSAGE, 172, 253, 247, 7, 172, 253, RETURN}; /* F0 9F 99 "(" F0 9F */
  static const int32_t header[] = {172, 253, 247, 7, 172, 253, 7, RETURN};     /* the same, and "(" */
  ie_chat_parser *parser = parse(tokenizer, "assistant", text, 8);
  assert_string_equal(ie_chat_parser_at(parser, 0)->message.text, "\xEF\xBF\xBD(\xEF\xBF\xBD");
  assert_false(ie_chat_parser_malformed(parser));
  ie_chat_parser_free(parser);
  parser = parse(tokenizer, "assistant", header, 8);
  assert_string_equal(ie_chat_parser_at(parser, 0)->message.text, "\xEF\xBF\xBD(\xEF\xBF\xBD(");
  assert_true(ie_chat_parser_malformed(parser));
  ie_chat_parser_free(parser);
}

static void wrong_use_is_refused(void **state) {
  (void)state;
  ie_chat_parser *parser;
  ie_error error = {0};
  assert_int_equal(ie_chat_parser_new(chat_harmony(), tokenizer, "wizard", &parser, &error),
                   IE_INVALID_ARGUMENT);
  assert_null(parser);
  assert_int_equal(ie_chat_parser_new(chat_harmony(), tokenizer, NULL, &parser, &error), IE_OK);
  assert_int_equal(ie_chat_parser_finish(parser, NULL, &error), IE_OK);
  assert_int_equal(ie_chat_parser_finish(parser, NULL, &error), IE_OK);
  assert_int_equal(ie_chat_parser_push(parser, START, NULL, &error), IE_INVALID_ARGUMENT);
  assert_int_equal(ie_chat_parser_ids(parser)->count, 0);
  ie_chat_parser_free(parser);
  ie_chat_parser_free(NULL);
}

/* A text that a parser returned goes back into a prompt and out of a parser unchanged. */
static void messages_survive_the_round_trip(void **state) {
  (void)state;
  const ie_chat_message messages[] = {
      {.role = "user", .name = "ann", .text = "Zürich\0<|end|>", .text_size = 15},
      {.role = "assistant", .channel = "analysis", .text = "", .text_size = 0},
      {.role = "assistant",
       .channel = "commentary",
       .recipient = "functions.f",
       .content_type = "<|constrain|>json",
       .text = "{}",
       .text_size = 2},
      {.role = "tool",
       .name = "functions.f",
       .channel = "commentary",
       .recipient = "assistant",
       .text = "1",
       .text_size = 1},
      {.role = "assistant", .channel = "final", .text = " done \n", .text_size = 7},
  };
  ie_chat_prompt prompt;
  ie_error error = {0};
  ie_chat_options options = {.date = "2026-05-06", .keep_analysis = true, .no_generation_prompt = true};
  assert_int_equal(ie_chat_render_messages(chat_harmony(), tokenizer, messages, 5, &options, &prompt, &error),
                   IE_OK);
  ie_chat_parser *parser = parse(tokenizer, NULL, prompt.ids.ids, prompt.ids.count);
  assert_int_equal(ie_chat_parser_count(parser), 6); /* the system message stands first */
  assert_false(ie_chat_parser_malformed(parser));
  assert_true(ie_chat_parser_complete(parser));
  for (size_t i = 0; i < 5; i++) {
    const ie_chat_message *m = &ie_chat_parser_at(parser, i + 1)->message;
    assert_true(same_text(m->role, messages[i].role) && same_text(m->name, messages[i].name) &&
                same_text(m->channel, messages[i].channel) &&
                same_text(m->recipient, messages[i].recipient) &&
                same_text(m->content_type, messages[i].content_type));
    assert_int_equal(m->text_size, messages[i].text_size);
    assert_memory_equal(m->text, messages[i].text, m->text_size);
  }
  ie_chat_parser_free(parser);
  ie_chat_prompt_free(&prompt);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(streams_equal_the_library),
      cmocka_unit_test(all_golden_streams),
      cmocka_unit_test(damage_is_repaired),
      cmocka_unit_test(text_is_streamed),
      cmocka_unit_test(illformed_bytes_are_replaced),
      cmocka_unit_test(wrong_use_is_refused),
      cmocka_unit_test(messages_survive_the_round_trip),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
