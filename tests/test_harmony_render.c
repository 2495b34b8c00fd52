/* Harmony rendering equals the reference library's, to the id; the forms of requests; what is refused and how. */
#include "support/chat_data.h"

#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

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

/* Renders a JSON value; the error message is left in *error. */
static ie_status render_value(const ie_tokenizer *t, const json_t *request, ie_chat_prompt *out,
                              ie_error *error) {
  char *text = json_dumps(request, JSON_COMPACT);
  assert_non_null(text);
  ie_chat_options options = {.date = "2026-05-06"};
  ie_status status = ie_chat_render(chat_harmony(), t, text, strlen(text), &options, out, error);
  free(text);
  return status;
}

static void prompt_equals(const char *name, const ie_chat_prompt *prompt, const json_t *ids,
                          const char *text) {
  if (text && (prompt->text.size != strlen(text) || memcmp(prompt->text.data, text, prompt->text.size) != 0))
    fail_msg("%s: expected\n%s\nfound\n%s", name, text, prompt->text.data);
  size_t count;
  int32_t *expected = chat_ids(ids, &count);
  assert_true(json_is_array(ids));
  for (size_t i = 0; i < count && i < prompt->ids.count; i++)
    if (prompt->ids.ids[i] != expected[i])
      fail_msg("%s: id %zu: expected %d, found %d", name, i, (int)expected[i], (int)prompt->ids.ids[i]);
  if (prompt->ids.count != count) fail_msg("%s: expected %zu ids, found %zu", name, count, prompt->ids.count);
  free(expected);
}

/* One of the three renderings of a row of render.jsonl. */
static void check_rendering(const ie_tokenizer *t, const json_t *row, const char *key) {
  json_t *request = json_object();
  const json_t *drop = json_object_get(row, "auto_drop_analysis");
  json_object_set(request, "conversation", json_object_get(row, "conversation"));
  json_object_set_new(request, "auto_drop_analysis", json_boolean(!json_is_false(drop)));
  if (strcmp(key, "completion_ids") == 0)
    json_object_set(request, "next_role", json_object_get(row, "next_role"));
  if (strcmp(key, "training_ids") == 0) json_object_set_new(request, "training", json_true());
  ie_chat_prompt prompt;
  ie_error error = {0};
  ie_status status = render_value(t, request, &prompt, &error);
  json_decref(request);
  if (json_is_true(json_object_get(row, "oracle_error"))) {
    assert_int_equal(status, IE_FORMAT);
    return;
  }
  if (status != IE_OK) fail_msg("%s: %s", chat_string(row, "case"), error.message);
  /* U+0000 is not part of a C string: such rows are compared by ids alone. */
  const json_t *text = json_object_get(row, "text");
  bool whole = strcmp(key, "ids") == 0 && strlen(json_string_value(text)) == json_string_length(text);
  prompt_equals(chat_string(row, "case"), &prompt, json_object_get(row, key),
                whole ? json_string_value(text) : NULL);
  ie_chat_prompt_free(&prompt);
}

static size_t check_file(const ie_tokenizer *t, const char *path) {
  json_t *rows = chat_rows(path);
  size_t count = json_array_size(rows);
  for (size_t i = 0; i < count; i++) {
    check_rendering(t, json_array_get(rows, i), "ids");
    check_rendering(t, json_array_get(rows, i), "completion_ids");
    check_rendering(t, json_array_get(rows, i), "training_ids");
  }
  json_decref(rows);
  return count;
}

static void conversations_equal_the_library(void **state) {
  (void)state;
  assert_true(check_file(tokenizer, "render.jsonl") >= 30);
}

static void all_golden_conversations(void **state) {
  (void)state;
  chat_golden_check("golden/text/harmony/render.jsonl", check_file, 60);
}

static void template_messages_equal_the_library(void **state) {
  (void)state;
  json_t *rows = chat_rows("messages.jsonl");
  for (size_t i = 0; i < json_array_size(rows); i++) {
    const json_t *row = json_array_get(rows, i);
    ie_chat_prompt prompt;
    ie_error error = {0};
    if (render_value(tokenizer, json_object_get(row, "request"), &prompt, &error) != IE_OK)
      fail_msg("%s: %s", chat_string(row, "case"), error.message);
    prompt_equals(chat_string(row, "case"), &prompt, json_object_get(row, "ids"), chat_string(row, "text"));
    ie_chat_prompt_free(&prompt);
  }
  json_decref(rows);
}

static void messages_without_json(void **state) {
  (void)state;
  const ie_chat_message messages[] = {
      {.role = "system", .text = "Be brief.", .text_size = 9},
      {.role = "user", .text = "\xFF<|end|>", .text_size = 8},
      {.role = "assistant", .channel = "analysis", .text = "old", .text_size = 3},
      {.role = "assistant", .channel = "final", .text = "Yes.", .text_size = 4},
      {.role = "user", .text = "Go.", .text_size = 3},
  };
  const char tools[] = "[{\"name\": \"f\", \"description\": \"F.\"}]";
  ie_chat_options options = {.date = "2026-05-06",
                             .reasoning_effort = "low",
                             .identity = "You are C.",
                             .tools = tools,
                             .tools_size = sizeof tools - 1};
  ie_chat_prompt prompt;
  ie_error error = {0};
  assert_int_equal(ie_chat_render_messages(chat_harmony(), tokenizer, messages, 5, &options, &prompt, &error),
                   IE_OK);
  assert_string_equal(
      prompt.text.data,
      "<|start|>system<|message|>You are C.\nKnowledge cutoff: 2024-06\nCurrent date: 2026-05-06\n\n"
      "Reasoning: low\n\n# Valid channels: analysis, commentary, final. Channel must be included for "
      "every message.\nCalls to these tools must go to the commentary channel: "
      "'functions'.<|end|><|start|>developer<|message|># Instructions\n\nBe brief.\n\n# Tools\n\n## "
      "functions\n\nnamespace functions {\n\n// F.\ntype f = () => any;\n\n} // namespace "
      "functions<|end|><|start|>user<|message|>\xFF<|end|><|end|><|start|>assistant<|channel|>final"
      "<|message|>Yes.<|end|><|start|>user<|message|>Go.<|end|><|start|>assistant");
  /* The user's <|end|> is text: only five messages end. */
  int ends = 0;
  for (size_t i = 0; i < prompt.ids.count; i++) ends += prompt.ids.ids[i] == 200007;
  assert_int_equal(ends, 5);
  assert_null(prompt.mask);
  ie_chat_prompt_free(&prompt);
  options = (ie_chat_options){.date = "2026-05-06", .keep_analysis = true, .no_generation_prompt = true};
  assert_int_equal(ie_chat_render_messages(chat_harmony(), tokenizer, messages, 4, &options, &prompt, &error),
                   IE_OK);
  assert_non_null(strstr(prompt.text.data, "<|channel|>analysis<|message|>old<|end|>"));
  assert_string_equal(prompt.text.data + prompt.text.size - 11, "Yes.<|end|>");
  ie_chat_prompt_free(&prompt);
  options = (ie_chat_options){.tools = "{", .tools_size = 1};
  assert_int_equal(ie_chat_render_messages(chat_harmony(), tokenizer, messages, 1, &options, &prompt, &error),
                   IE_FORMAT);
  assert_non_null(strstr(error.message, "chat tools"));
}

/* Without a date in the request and the options, the clock's. */
static void date_is_todays(void **state) {
  (void)state;
  char before[48], after[48];
  time_t now = time(NULL);
  strftime(before, sizeof before, "Current date: %Y-%m-%d\n", gmtime(&now));
  const ie_chat_message user = {.role = "user", .text = "x", .text_size = 1};
  ie_chat_prompt prompt;
  ie_error error = {0};
  assert_int_equal(ie_chat_render_messages(chat_harmony(), tokenizer, &user, 1, NULL, &prompt, &error),
                   IE_OK);
  now = time(NULL);
  strftime(after, sizeof after, "Current date: %Y-%m-%d\n", gmtime(&now));
  assert_true(strstr(prompt.text.data, before) || strstr(prompt.text.data, after));
  ie_chat_prompt_free(&prompt);
}

typedef struct refusal {
  const char *request;
  ie_status status;
  const char *says; /* part of the message */
} refusal;

static const refusal refusals[] = {
    {"", IE_FORMAT, "not valid JSON"},
    {"[1]", IE_FORMAT, "expected an object, found an array"},
    {"{}", IE_FORMAT, "either messages or conversation, found neither"},
    {"{\"messages\":[],\"conversation\":{\"messages\":[]}}", IE_FORMAT, "found both"},
    {"{\"messages\":{}}", IE_FORMAT, "messages: expected an array, found an object"},
    {"{\"messages\":[{\"role\":\"wizard\",\"content\":\"x\"}]}", IE_FORMAT, "messages[0].role"},
    {"{\"messages\":[{\"content\":\"x\"}]}", IE_FORMAT, "messages[0].role"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},7]}", IE_FORMAT,
     "messages[1]: expected an object"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":7}]}", IE_FORMAT, "messages[0].content"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", IE_UNSUPPORTED,
     "messages[0].content[0]: expected a text, found type \"image_url\""},
    {"{\"messages\":[{\"role\":\"user\",\"name\":5,\"content\":\"x\"}]}", IE_FORMAT,
     "name: expected a string"},
    {"{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", IE_FORMAT, "messages[0]: a tool's message"},
    {"{\"messages\":[{\"role\":\"tool\",\"channel\":\"final\",\"content\":\"x\"}]}", IE_FORMAT,
     "a tool's message"},
    {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\"}]}]}", IE_FORMAT,
     "without a name"},
    {"{\"messages\":[],\"kwargs\":{\"reasoning_effort\":\"huge\"}}", IE_FORMAT,
     "kwargs.reasoning_effort: expected low, medium or high, found \"huge\""},
    {"{\"messages\":[],\"kwargs\":{\"model_identity\":1}}", IE_FORMAT, "kwargs.model_identity"},
    {"{\"messages\":[],\"kwargs\":{\"keep_analysis\":1}}", IE_FORMAT, "kwargs: keep_analysis"},
    {"{\"messages\":[],\"kwargs\":3}", IE_FORMAT, "kwargs: expected an object"},
    {"{\"messages\":[],\"tools\":[{\"description\":\"x\"}]}", IE_FORMAT,
     "chat request: tools[0].name is missing"},
    {"{\"messages\":[],\"tools\":[3]}", IE_FORMAT, "chat request: tools[0]: expected an object"},
    {"{\"messages\":[],\"add_generation_prompt\":1}", IE_FORMAT, "add_generation_prompt"},
    {"{\"messages\":[],\"next_role\":\"wizard\"}", IE_FORMAT, "next_role"},
    {"{\"messages\":[],\"next_role\":1}", IE_FORMAT, "next_role"},
    {"{\"conversation\":{}}", IE_FORMAT, "conversation.messages"},
    {"{\"conversation\":{\"messages\":[5]}}", IE_FORMAT, "messages[0]: expected an object"},
    {"{\"conversation\":{\"messages\":[{\"role\":\"user\"}]}}", IE_FORMAT, "content: expected"},
    {"{\"conversation\":{\"messages\":[{\"role\":\"user\",\"content\":[5]}]}}", IE_FORMAT, "content[0]"},
    {"{\"conversation\":{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}}", IE_FORMAT,
     "text is missing"},
    {"{\"conversation\":{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"b\\u001b[0m\"}]}]}}",
     IE_FORMAT, "found \"b?[0m\""},
    {"{\"conversation\":{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"system_content\"}]}]}}",
     IE_FORMAT, "may only stand in a system message"},
    {"{\"conversation\":{\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"system_content\","
     "\"channel_config\":{}}]}]}}",
     IE_FORMAT, "valid_channels"},
    {"{\"conversation\":{\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"system_content\","
     "\"channel_config\":{\"valid_channels\":[1]}}]}]}}",
     IE_FORMAT, "content[0].channel_config.valid_channels[0]"},
    {"{\"conversation\":{\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"developer_content\","
     "\"tools\":[]}]}]}}",
     IE_FORMAT, "an object of namespaces"},
    {"{\"conversation\":{\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"developer_content\","
     "\"tools\":{\"a\":{\"name\":\"a\"}}}]}]}}",
     IE_FORMAT, "tools.a.tools"},
};

static void bad_requests_are_refused(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
    const refusal *r = &refusals[i];
    ie_chat_prompt prompt;
    memset(&prompt, 0x55, sizeof prompt);
    ie_error error = {0};
    ie_status status =
        ie_chat_render(chat_harmony(), tokenizer, r->request, strlen(r->request), NULL, &prompt, &error);
    if (status != r->status || !strstr(error.message, r->says))
      fail_msg("%s: status %d, \"%s\"; expected \"%s\"", r->request, (int)status, error.message, r->says);
    assert_null(prompt.ids.ids);
    assert_null(prompt.text.data);
  }
}

/* A request that is cut anywhere is refused, never misread. */
static void cut_requests_are_refused(void **state) {
  (void)state;
  json_t *rows = chat_rows("messages.jsonl");
  char *text = json_dumps(json_object_get(json_array_get(rows, 3), "request"), JSON_COMPACT);
  size_t size = strlen(text);
  for (size_t cut = 0; cut < size; cut++) {
    char *exact = malloc(cut + 1); /* so that a read beyond the end is seen */
    memcpy(exact, text, cut);
    ie_chat_prompt prompt;
    ie_error error = {0};
    assert_int_equal(ie_chat_render(chat_harmony(), tokenizer, exact, cut, NULL, &prompt, &error), IE_FORMAT);
    free(exact);
  }
  free(text);
  json_decref(rows);
}

/* A tool whose parameters are arrays of arrays, `depth` deep. */
static char *nested_request(size_t depth) {
  static const char head[] = "{\"messages\":[],\"tools\":[{\"name\":\"t\",\"parameters\":";
  static const char level[] = "{\"type\":\"array\",\"items\":";
  char *text = malloc(sizeof head + depth * sizeof level + depth + 64), *p = text;
  p += sprintf(p, "%s", head);
  for (size_t i = 0; i < depth; i++) p += sprintf(p, "%s", level);
  p += sprintf(p, "5");
  for (size_t i = 0; i < depth; i++) *p++ = '}';
  sprintf(p, "}]}");
  return text;
}

static void schema_depth_is_bounded(void **state) {
  (void)state;
  for (size_t depth = 198; depth < 202; depth++) {
    char *text = nested_request(depth);
    ie_chat_prompt prompt;
    ie_error error = {0};
    ie_status status = ie_chat_render(chat_harmony(), tokenizer, text, strlen(text), NULL, &prompt, &error);
    assert_int_equal(status, depth < 200 ? IE_OK : IE_LIMIT);
    if (status == IE_OK) ie_chat_prompt_free(&prompt);
    free(text);
  }
}

static void every_effort_is_said(void **state) {
  (void)state;
  const char *const *efforts = ie_chat_format_efforts(chat_harmony());
  const ie_chat_message message = {.role = "user", .text = "x", .text_size = 1};
  size_t count = 0;
  for (; efforts[count]; count++) {
    ie_chat_prompt prompt;
    ie_error error = {0};
    char line[64];
    const ie_chat_options options = {.date = "2026-05-06", .reasoning_effort = efforts[count]};
    assert_int_equal(
        ie_chat_render_messages(chat_harmony(), tokenizer, &message, 1, &options, &prompt, &error), IE_OK);
    snprintf(line, sizeof line, "\n\nReasoning: %s\n", efforts[count]);
    assert_non_null(strstr(prompt.text.data, line));
    ie_chat_prompt_free(&prompt);
  }
  assert_int_equal(count, 3);
}

static void table_of_formats(void **state) {
  (void)state;
  static const char *const names[] = {"harmony",  "qwen2.5",  "qwen3", "llama3.1",
                                      "llama3.2", "nanochat", "c2c"};
  assert_int_equal(ie_chat_format_count(), 7);
  ie_error error = {0};
  const ie_chat_format *format;
  for (size_t i = 0; i < 7; i++) {
    assert_string_equal(ie_chat_format_name(ie_chat_format_at(i)), names[i]);
    assert_int_equal(ie_chat_format_find(names[i], &format, &error), IE_OK);
    assert_ptr_equal(format, ie_chat_format_at(i));
    if (ie_chat_format_built(format)) continue;
    ie_chat_prompt prompt;
    ie_chat_parser *parser;
    ie_ids ids = {0};
    assert_int_equal(ie_chat_render(format, tokenizer, "{}", 2, NULL, &prompt, &error), IE_UNSUPPORTED);
    assert_non_null(strstr(error.message, names[i]));
    assert_int_equal(ie_chat_render_messages(format, tokenizer, NULL, 0, NULL, &prompt, &error),
                     IE_UNSUPPORTED);
    assert_int_equal(ie_chat_parser_new(format, tokenizer, NULL, &parser, &error), IE_UNSUPPORTED);
    assert_int_equal(ie_chat_format_stop_ids(format, tokenizer, &ids, &error), IE_UNSUPPORTED);
  }
  assert_true(ie_chat_format_built(chat_harmony()));
  assert_int_equal(ie_chat_format_find("Harmony", &format, &error), IE_INVALID_ARGUMENT);
  assert_null(format);
  assert_non_null(strstr(error.message, "harmony, qwen2.5, qwen3, llama3.1, llama3.2, nanochat, c2c"));
  ie_ids ids = {0};
  assert_int_equal(ie_chat_format_stop_ids(chat_harmony(), tokenizer, &ids, &error), IE_OK);
  assert_int_equal(ids.count, 2);
  assert_int_equal(ids.ids[0], 200002);
  assert_int_equal(ids.ids[1], 200012);
  ie_ids_free(&ids);
}

static void file_write(const char *dir, const char *name, const char *text) {
  char path[300];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  if (!text) {
    unlink(path);
    return;
  }
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static void directories_are_recognised(void **state) {
  (void)state;
  static const char ours[] = "{{ '<|start|>' }}{{ '<|channel|>' }}";
  char dir[] = "/tmp/clocher_chat_XXXXXX";
  assert_non_null(mkdtemp(dir));
  ie_error error = {0};
  const ie_chat_format *format;
  assert_int_equal(ie_chat_format_select(NULL, dir, tokenizer, &format, &error), IE_OK); /* no template */
  assert_ptr_equal(format, chat_harmony());
  file_write(dir, "chat_template.jinja", ours);
  assert_int_equal(ie_chat_format_select(NULL, dir, tokenizer, &format, &error), IE_OK);
  assert_ptr_equal(format, chat_harmony());
  file_write(dir, "chat_template.jinja", "{{ '<|im_start|>' }}");
  assert_int_equal(ie_chat_format_detect(dir, tokenizer, &format, &error), IE_OK);
  assert_null(format);
  assert_int_equal(ie_chat_format_select(NULL, dir, tokenizer, &format, &error), IE_UNSUPPORTED);
  assert_non_null(strstr(error.message, dir));
  assert_non_null(strstr(error.message, "--chat-format"));
  assert_non_null(strstr(error.message, "harmony, qwen2.5"));
  assert_int_equal(ie_chat_format_select("harmony", dir, tokenizer, &format, &error), IE_OK);
  assert_ptr_equal(format, chat_harmony());
  file_write(dir, "chat_template.jinja", "");
  assert_int_equal(ie_chat_format_detect(dir, tokenizer, &format, &error), IE_OK);
  assert_null(format);
  file_write(dir, "chat_template.jinja", NULL);
  file_write(dir, "tokenizer_config.json", "{\"chat_template\": \"<|im_start|>\"}");
  assert_int_equal(ie_chat_format_detect(dir, tokenizer, &format, &error), IE_OK);
  assert_null(format);
  file_write(dir, "tokenizer_config.json",
             "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"x\"}, {\"name\": \"default\", "
             "\"template\": \"<|start|> <|channel|>\"}]}");
  assert_int_equal(ie_chat_format_detect(dir, tokenizer, &format, &error), IE_OK);
  assert_ptr_equal(format, chat_harmony());
  file_write(dir, "tokenizer_config.json", "{\"model_max_length\": 5}");
  assert_int_equal(ie_chat_format_detect(dir, tokenizer, &format, &error), IE_OK);
  assert_ptr_equal(format, chat_harmony());
  file_write(dir, "tokenizer_config.json", "{");
  assert_int_equal(ie_chat_format_detect(dir, tokenizer, &format, &error), IE_FORMAT);
  assert_int_equal(ie_chat_format_detect(dir, NULL, &format, &error), IE_OK);
  assert_null(format);
  file_write(dir, "tokenizer_config.json", NULL);
  rmdir(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(conversations_equal_the_library),
      cmocka_unit_test(all_golden_conversations),
      cmocka_unit_test(template_messages_equal_the_library),
      cmocka_unit_test(messages_without_json),
      cmocka_unit_test(date_is_todays),
      cmocka_unit_test(bad_requests_are_refused),
      cmocka_unit_test(cut_requests_are_refused),
      cmocka_unit_test(schema_depth_is_bounded),
      cmocka_unit_test(table_of_formats),
      cmocka_unit_test(every_effort_is_said),
      cmocka_unit_test(directories_are_recognised),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
