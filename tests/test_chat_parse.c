/* What the chat formats other than Harmony make of ids: messages one by one, repairs, streamed pieces. */
#include "support/chat_data.h"
#include "support/chat_formats.h"

#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <string.h>

typedef struct parse_case {
  const char *format, *role, *wrote;
  /* One message a line: role|name|channel|recipient|content_type|stray|text, "-" for none; then two letters: complete
   * (c) or not (o), malformed (m) or not (w). */
  const char *messages;
} parse_case;

static const parse_case cases[] = {
    {"qwen3", "assistant", "Hi<|im_end|>\n", "assistant|-|final|-|-|-|Hi\ncw"},
    {"qwen3", "assistant", "<think>\na\n\nb\n</think>\n\nc\n<|im_end|>",
     "assistant|-|analysis|-|-|-|a\n\nb\nassistant|-|final|-|-|-|c\n\ncw"},
    {"qwen3", "assistant", "<think>\ncut off", "assistant|-|analysis|-|-|-|cut off\now"},
    {"qwen3", "assistant", "<think>a<|im_end|>", "assistant|-|analysis|-|-|-|a\ncm"},
    {"qwen3", "assistant", "opened by the prompt\n</think>\n\nb<|im_end|>",
     "assistant|-|analysis|-|-|-|opened by the prompt\nassistant|-|final|-|-|-|b\ncm"},
    {"qwen3", "assistant",
     "a\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\":  1}}\n</tool_call><|im_end|>",
     "assistant|-|final|-|-|-|a\nassistant|-|commentary|functions.f|json|-|{\"x\":  1}\ncw"},
    {"qwen3", "assistant", "<tool_call>{\"id\": 7, \"name\": \"f\"}</tool_call>b",
     "assistant|-|commentary|functions.f|json|\"id\": 7|{}\nassistant|-|final|-|-|-|b\nom"},
    {"qwen3", "assistant", "<tool_call>{\"name\": \"f</tool_call><|im_end|>",
     "assistant|-|commentary|-|-|-|{\"name\": \"f\ncm"},
    {"qwen3", "assistant",
     "<tool_call>{\"name\": \"f\", \"arguments\": 123456789012345678901234567890}</tool_call>",
     "assistant|-|commentary|functions.f|json|-|123456789012345678901234567890\now"},
    {"qwen3", "assistant", "<tool_call>{\"name\": \"two words\"}</tool_call>",
     "assistant|-|commentary|-|-|-|{\"name\": \"two words\"}\nom"},
    {"qwen3", "assistant", "<think>x<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
     "assistant|-|analysis|-|-|-|x\nassistant|-|commentary|functions.f|json|-|{}\nom"},
    {"qwen3", "assistant", "<|im_end|>", "assistant|-|final|-|-|-|\ncw"},
    {"qwen3", "assistant", "", "ow"},
    {"qwen3", NULL, "", "cw"},
    {"qwen3", NULL, "<|im_start|>user\n<think>\n<|im_end|>\n<|im_start|>assistant\na<|im_end|>",
     "user|-|-|-|-|-|<think>\n\nassistant|-|final|-|-|-|a\ncw"},
    {"qwen3", NULL, "<|im_start|>the wizard\na", "assistant|-|final|-|-|the wizard|a\nom"},
    {"qwen3", NULL, "<|im_start|>wizard\n", "assistant|-|final|-|-|wizard|\nom"},
    {"qwen3", NULL, "<|im_start|>no line<|im_end|>", "assistant|-|final|-|-|-|no line\ncm"},
    {"qwen3", NULL, "<|im_start|>user<|im_end|>", "cm"},
    {"qwen3", NULL, "speech<|im_start|>user\na", "assistant|-|final|-|-|-|speech\nuser|-|-|-|-|-|a\nom"},
    {"qwen3", NULL, "</think><think>a", "assistant|-|analysis|-|-|-|a\nom"},
    {"qwen2.5", "assistant", "a\n\n<|im_end|>", "assistant|-|final|-|-|-|a\n\n\ncw"},
    {"llama3.1", "assistant", "a<|eot_id|>", "assistant|-|final|-|-|-|a\ncw"},
    {"llama3.1", "assistant", "{\"name\": \"f\", \"parameters\": {}}<|eot_id|>",
     "assistant|-|commentary|functions.f|json|-|{}\ncw"},
    {"llama3.1", "assistant", "{\"name\": \"Ann\", \"age\": 3}<|eot_id|>",
     "assistant|-|final|-|-|-|{\"name\": \"Ann\", \"age\": 3}\ncw"},
    {"llama3.1", "assistant", "{\"names\": []}<|eot_id|>", "assistant|-|final|-|-|-|{\"names\": []}\ncw"},
    {"llama3.1", "assistant", "{\"name\": \"f\"", "assistant|-|final|-|-|-|{\"name\": \"f\"\now"},
    {"llama3.1", "assistant", "<|python_tag|>1 + 1<|eom_id|>",
     "assistant|-|commentary|python|code|-|1 + 1\ncw"},
    {"llama3.1", "assistant", "<|python_tag|>a_b.call(q=\"x\")<|eom_id|>",
     "assistant|-|commentary|a_b|code|-|a_b.call(q=\"x\")\ncw"},
    {"llama3.1", "assistant", "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}<|eom_id|>",
     "assistant|-|commentary|functions.f|json|-|{}\ncw"},
    {"llama3.1", NULL, "<|begin_of_text|><|start_header_id|>ipython<|end_header_id|>\n\n\"3\"<|eot_id|>",
     "tool|-|-|-|-|-|\"3\"\ncw"},
    {"llama3.1", NULL, "<|start_header_id|>user<|start_header_id|>user<|end_header_id|>\n\na",
     "user|-|-|-|-|-|a\nom"},
    {"nanochat", "assistant",
     "a<|python_start|>1<|python_end|><|output_start|>1<|output_end|><|assistant_end|>",
     "assistant|-|final|-|-|-|a\nassistant|-|commentary|python|code|-|1\ntool|python|commentary|assistant|-|-"
     "|1\ncw"},
    {"nanochat", "assistant", "<|python_start|><|assistant_end|>",
     "assistant|-|commentary|python|code|-|\ncm"},
    {"nanochat", NULL, "<|bos|><|user_start|>a<|assistant_start|>b<|bos|>",
     "user|-|-|-|-|-|a\nassistant|-|final|-|-|-|b\ncm"},
    {"c2c", "assistant", " a### Human: b### Assist",
     "assistant|-|final|-|-|-|a\nuser|-|-|-|-|-|b### Assist\now"},
    {"c2c", "assistant", " a<|endoftext|>", "assistant|-|final|-|-|-|a\ncw"},
    {"c2c", NULL, "### Human:### Assistant: x", "user|-|-|-|-|-|\nassistant|-|final|-|-|-|x\now"},
    {"c2c", NULL, "speech", "assistant|-|final|-|-|-|speech\nom"},
};

static const char *or_dash(const char *text) {
  return text ? text : "-";
}

static void describe(const ie_chat_parser *parser, char *out, size_t capacity) {
  size_t size = 0;
  for (size_t i = 0; i < ie_chat_parser_count(parser); i++) {
    const ie_chat_parsed *p = ie_chat_parser_at(parser, i);
    const ie_chat_message *m = &p->message;
    size += (size_t)snprintf(out + size, capacity - size, "%s|%s|%s|%s|%s|%s|%.*s\n", m->role,
                             or_dash(m->name), or_dash(m->channel), or_dash(m->recipient),
                             or_dash(m->content_type), or_dash(p->stray), (int)m->text_size, m->text);
    assert_true(size < capacity);
  }
  snprintf(out + size, capacity - size, "%c%c", ie_chat_parser_complete(parser) ? 'c' : 'o',
           ie_chat_parser_malformed(parser) ? 'm' : 'w');
}

static const chat_sample *sample_of(const char *format) {
  const chat_sample *sample = chat_samples;
  while (strcmp(sample->name, format) != 0) sample++;
  return sample;
}

static void what_models_write(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const chat_sample *sample = sample_of(cases[i].format);
    ie_tokenizer *tokenizer = chat_sample_tokenizer(sample);
    ie_ids ids = chat_sample_ids(tokenizer, cases[i].wrote);
    ie_chat_parser *parser;
    ie_error error = {0};
    char found[2000];
    assert_int_equal(ie_chat_parse(chat_sample_format(sample), tokenizer, cases[i].role, ids.ids, ids.count,
                                   &parser, &error),
                     IE_OK);
    describe(parser, found, sizeof found);
    if (strcmp(found, cases[i].messages) != 0)
      fail_msg("%s %s:\nwant %s\ngot  %s", cases[i].format, cases[i].wrote, cases[i].messages, found);
    ie_chat_parser_free(parser);
    ie_ids_free(&ids);
    ie_tokenizer_free(tokenizer);
  }
}

/* An answer is shown as it comes; a line feed that may be markup waits for what follows. */
static void text_is_streamed(void **state) {
  (void)state;
  const chat_sample *sample = sample_of("qwen3");
  ie_tokenizer *tokenizer = chat_sample_tokenizer(sample);
  ie_ids ids = chat_sample_ids(tokenizer, "<think>\na b\n</think>\n\nc\n\xC3\xA9<|im_end|>");
  ie_chat_parser *parser;
  ie_error error = {0};
  char shown[200] = "";
  assert_int_equal(ie_chat_parser_new(chat_sample_format(sample), tokenizer, "assistant", &parser, &error),
                   IE_OK);
  for (size_t i = 0; i < ids.count; i++) {
    ie_chat_event event;
    assert_int_equal(ie_chat_parser_push(parser, ids.ids[i], &event, &error), IE_OK);
    size_t size = strlen(shown);
    if (event.opened) size += (size_t)snprintf(shown + size, sizeof shown - size, "<");
    size += (size_t)snprintf(shown + size, sizeof shown - size, "%.*s", (int)event.text_size, event.text);
    snprintf(shown + size, sizeof shown - size, event.closed ? ">" : "|");
  }
  ie_chat_parser_free(parser);
  ie_ids_free(&ids);
  ie_tokenizer_free(tokenizer);
  /* <think>, \n, a, b, \n, </think>, \n\n, c, \n, é, <|im_end|> */
  assert_string_equal(shown, "||<a| b||>|<c||\n\xC3\xA9|>");
}

/* U+0000 is no white space: it is not taken off a header. */
static void a_nul_in_a_header_is_kept(void **state) {
  (void)state;
  static const char cut[] = "<|im_start|>user\0<|im_end|>", line[] = "<|im_start|>user\0\nhi<|im_end|>";
  const chat_sample *sample = sample_of("qwen3");
  ie_tokenizer *tokenizer = chat_sample_tokenizer(sample);
  for (size_t i = 0; i < 2; i++) {
    ie_ids ids = {0};
    ie_chat_parser *parser;
    ie_error error = {0};
    assert_int_equal(ie_tokenizer_encode(tokenizer, i ? line : cut, i ? sizeof line - 1 : sizeof cut - 1,
                                         NULL, &ids, &error),
                     IE_OK);
    assert_int_equal(
        ie_chat_parse(chat_sample_format(sample), tokenizer, NULL, ids.ids, ids.count, &parser, &error),
        IE_OK);
    assert_int_equal(ie_chat_parser_count(parser), 1);
    assert_true(ie_chat_parser_malformed(parser));
    const ie_chat_parsed *p = ie_chat_parser_at(parser, 0);
    assert_string_equal(p->message.role, "assistant");
    if (i) { /* a header's words are a field, which holds no control characters */
      assert_string_equal(p->stray, "user");
      assert_string_equal(p->message.text, "hi");
    } else {
      assert_int_equal(p->message.text_size, 5);
      assert_memory_equal(p->message.text, "user", 5);
    }
    ie_chat_parser_free(parser);
    ie_ids_free(&ids);
  }
  ie_tokenizer_free(tokenizer);
}

static void wrong_use_is_refused(void **state) {
  (void)state;
  for (const chat_sample *sample = chat_samples; sample->name; sample++) {
    ie_tokenizer *tokenizer = chat_sample_tokenizer(sample), *other = chat_tokenizer();
    const ie_chat_format *format = chat_sample_format(sample);
    ie_chat_parser *parser;
    ie_error error = {0};
    assert_int_equal(ie_chat_parser_new(format, tokenizer, "wizard", &parser, &error), IE_INVALID_ARGUMENT);
    assert_null(parser);
    if (strcmp(sample->name, "c2c") != 0)
      assert_int_equal(ie_chat_parser_new(format, other, NULL, &parser, &error), IE_UNSUPPORTED);
    assert_null(parser);
    ie_tokenizer_free(tokenizer);
    ie_tokenizer_free(other);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_models_write),
      cmocka_unit_test(text_is_streamed),
      cmocka_unit_test(a_nul_in_a_header_is_kept),
      cmocka_unit_test(wrong_use_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
