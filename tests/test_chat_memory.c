/* The chat formats other than Harmony when the n-th allocation fails, for every n: a message, no crash, no leak. */
#include "support/chat_formats.h"
#include "support/failing_malloc.h"

#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <string.h>

typedef struct subject {
  const ie_chat_format *format;
  const ie_tokenizer *tokenizer;
  const char *request;
  const int32_t *ids;
  size_t count;
} subject;

/* No token of them is longer than 15 bytes; see tests/test_harmony_memory.c. */
static const char with_calls[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": "
    "[{\"type\": \"text\", "
    "\"text\": \"q\"}]}, {\"role\": \"assistant\", \"content\": \"t\", \"thinking\": \"r\", \"tool_calls\": "
    "[{\"function\": {\"name\": \"f\", \"arguments\": {\"x\": [1.5, null]}}}]}, {\"role\": \"tool\", "
    "\"content\": \"o\"}, "
    "{\"role\": \"assistant\", \"channel\": \"analysis\", \"content\": \"r\"}, {\"role\": \"assistant\", "
    "\"recipient\": "
    "\"functions.g\", \"content\": \"{}\"}, {\"role\": \"tool\", \"content\": \"o\"}], \"tools\": "
    "[{\"name\": \"f\"}]}";
static const char without_calls[] = "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": "
                                    "\"user\", \"content\": \"q\"}, {\"role\": "
                                    "\"assistant\", \"content\": \"a\"}]}";
static const char own[] = "{\"conversation\": {\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, "
                          "{\"role\": \"assistant\", \"content\": "
                          "[{\"type\": \"python\", \"text\": \"1\"}]}]}, \"max_tokens\": 3}";

static ie_status render(void *arg, ie_error *error) {
  const subject *s = arg;
  ie_chat_prompt prompt;
  const ie_chat_options options = {.date = "2026-02-01"};
  ie_status status =
      ie_chat_render(s->format, s->tokenizer, s->request, strlen(s->request), &options, &prompt, error);
  if (status == IE_OK) ie_chat_prompt_free(&prompt);
  return status;
}

static ie_status parse(void *arg, ie_error *error) {
  const subject *s = arg;
  ie_chat_parser *parser;
  ie_status status = ie_chat_parse(s->format, s->tokenizer, "assistant", s->ids, s->count, &parser, error);
  ie_chat_parser_free(parser);
  return status;
}

static void exhaust(const char *name, failing_operation run, subject *s) {
  failing_case failing = {.name = name, .run = run};
  failing_malloc_exhaust(&failing, s);
}

static void nth_allocation_fails(void **state) {
  (void)state;
  for (const chat_sample *sample = chat_samples; sample->name; sample++) {
    ie_tokenizer *tokenizer = chat_sample_tokenizer(sample);
    bool nanochat = strcmp(sample->name, "nanochat") == 0,
         plain = nanochat || strcmp(sample->name, "c2c") == 0;
    subject s = {.format = chat_sample_format(sample),
                 .tokenizer = tokenizer,
                 .request = plain ? without_calls : with_calls};
    exhaust(sample->name, render, &s);
    s.request = own;
    if (nanochat) exhaust("nanochat's own", render, &s);
    for (size_t i = 0; sample->texts[i]; i++) {
      ie_ids ids = chat_sample_ids(tokenizer, sample->texts[i]);
      s.ids = ids.ids;
      s.count = ids.count;
      exhaust(sample->texts[i], parse, &s);
      ie_ids_free(&ids);
    }
    ie_tokenizer_free(tokenizer);
  }
}

int main(void) {
  failing_malloc_install();
  const struct CMUnitTest tests[] = {cmocka_unit_test(nth_allocation_fails)};
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  failing_malloc_uninstall();
  return failed;
}
