/* Chat formats when the n-th allocation fails, for every n: a message, no crash, no leak. */
#include "support/chat_data.h"
#include "support/failing_malloc.h"

#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdlib.h>
#include <string.h>

typedef struct subject {
  ie_tokenizer *tokenizer;
  int32_t *ids;
  size_t count;
} subject;

/* No token of it is longer than 15 bytes: jansson 2.14 does not notice when its lexer's buffer cannot grow, and goes
 * on with a character less. */
static const char request[] = "{\"messages\": [{\"role\": \"system\", \"content\": \"a\"}, {\"role\": "
                              "\"user\", \"content\": [{\"type\": \"text\", "
                              "\"text\": \"b\"}]}, {\"role\": \"assistant\", \"content\": \"p\", "
                              "\"thinking\": \"t\", \"tool_calls\": [{\"id\": \"1\", "
                              "\"function\": {\"name\": \"f\", \"arguments\": {\"x\": [1.5, null, {\"y\": "
                              "\"z\"}]}}}]}, {\"role\": \"tool\", "
                              "\"tool_call_id\": \"1\", \"content\": \"r\"}, {\"role\": \"assistant\", "
                              "\"channel\": \"final\", \"content\": \"c\"}, "
                              "{\"role\": \"developer\", \"content\": \"d\"}], \"tools\": [{\"name\": \"f\", "
                              "\"description\": \"A tool.\", "
                              "\"parameters\": {\"type\": \"object\", \"properties\": {\"k\": {\"oneOf\": "
                              "[{\"type\": \"string\", \"default\": [1]}, "
                              "{\"type\": \"array\", \"items\": {}}]}}}}], \"kwargs\": {\"date_string\": "
                              "\"2026-01-01\"}, \"next_role\": "
                              "\"assistant\"}";

static ie_status render_request(void *arg, ie_error *error) {
  const subject *s = arg;
  ie_chat_prompt prompt;
  ie_status status =
      ie_chat_render(chat_harmony(), s->tokenizer, request, sizeof request - 1, NULL, &prompt, error);
  if (status == IE_OK) ie_chat_prompt_free(&prompt);
  return status;
}

static ie_status render_messages(void *arg, ie_error *error) {
  const subject *s = arg;
  static const char tools[] = "[{\"name\": \"f\", \"parameters\": {\"type\": \"string\"}}]";
  const ie_chat_message messages[] = {
      {.role = "system", .text = "Be brief.", .text_size = 9},
      {.role = "user", .name = "ann", .text = "Go.", .text_size = 3},
      {.role = "assistant", .channel = "commentary", .recipient = "f", .text = "{}", .text_size = 2},
  };
  const ie_chat_options options = {.tools = tools, .tools_size = sizeof tools - 1, .reasoning_effort = "low"};
  ie_chat_prompt prompt;
  ie_status status =
      ie_chat_render_messages(chat_harmony(), s->tokenizer, messages, 3, &options, &prompt, error);
  if (status == IE_OK) ie_chat_prompt_free(&prompt);
  return status;
}

/* A stream that goes through every kind of header; the parser must also stand being used after a failure. */
static ie_status parse_stream(void *arg, ie_error *error) {
  const subject *s = arg;
  ie_chat_parser *parser;
  ie_status status = ie_chat_parser_new(chat_harmony(), s->tokenizer, "assistant", &parser, error);
  if (status != IE_OK) return status;
  for (size_t i = 0; i < s->count && status == IE_OK; i++)
    status = ie_chat_parser_push(parser, s->ids[i], NULL, error);
  if (status == IE_OK) {
    status = ie_chat_parser_finish(parser, NULL, error);
  } else {
    ie_error later;
    ie_chat_event event;
    (void)ie_chat_parser_push(parser, 200008, &event, &later);
    (void)ie_chat_parser_finish(parser, &event, &later);
  }
  ie_chat_parser_free(parser);
  return status;
}

static ie_status parse_at_once(void *arg, ie_error *error) {
  const subject *s = arg;
  ie_chat_parser *parser;
  ie_status status =
      ie_chat_parse(chat_harmony(), s->tokenizer, "assistant", s->ids, s->count, &parser, error);
  ie_chat_parser_free(parser);
  return status;
}

static void nth_allocation_fails(void **state) {
  (void)state;
  static const char stream[] =
      "to=a<|channel|>commentary to=b x y <|constrain|>json z<|message|>{}<|call|>speech<|start|>zoo.feed "
      "to=assistant<|channel|>analysis<|message|>text<|end|><|channel|>final no "
      "message<|return|><|start|>user:ann";
  static const failing_case cases[] = {
      {.name = "request", .run = render_request},
      {.name = "messages", .run = render_messages},
      {.name = "parser", .run = parse_stream},
      {.name = "parse", .run = parse_at_once},
  };
  subject s = {.tokenizer = chat_tokenizer()};
  ie_ids ids = {0};
  ie_error error = {0};
  assert_int_equal(ie_tokenizer_encode(s.tokenizer, stream, sizeof stream - 1, NULL, &ids, &error), IE_OK);
  s.ids = ids.ids;
  s.count = ids.count;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) failing_malloc_exhaust(&cases[i], &s);
  ie_ids_free(&ids);
  ie_tokenizer_free(s.tokenizer);
}

int main(void) {
  failing_malloc_install();
  const struct CMUnitTest tests[] = {cmocka_unit_test(nth_allocation_fails)};
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  failing_malloc_uninstall();
  return failed;
}
