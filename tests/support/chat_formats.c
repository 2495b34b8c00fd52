#include "support/chat_formats.h"

#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "support/chat_data.h"

#include <stdio.h>
#include <string.h>

static const char *const qwen2_texts[] = {
    "Hello there.<|im_end|>\n",
    "I will look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1, 2.0, \"y z\"]}}\n</tool_call>\n"
    "<tool_call>\n{\"arguments\": {}, \"name\": \"g.h\"}\n</tool_call><|im_end|>",
    "a\n\n\nb\n<|im_end|>\n<|im_start|>user\nmore\n<|im_end|>\n<|im_start|>assistant\nyes<|im_end|><|"
    "endoftext|>",
    NULL};
static const char *const qwen3_texts[] = {
    "<think>\nLet me see.\n\nYes.\n</think>\n\nIt is 4.\n<|im_end|>",
    "<think>\n\n</think>\n\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call><|im_end|>\n",
    "<think>\none two\n</think>\n\nthree\n<tool_call>\n{\"name\": \"f\", \"arguments\": "
    "\"s\"}\n</tool_call><|im_end|>",
    "plain words<|im_end|>\n<|im_start|>user\n<think> is text here<|im_end|>", NULL};
static const char *const llama3_texts[] = {
    "Hello there.<|eot_id|>",
    "{\"name\": \"f\", \"parameters\": {\"x\": \"y z\"}}<|eot_id|>",
    "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}<|eom_id|>",
    "{\"a\": [\"json\", \"answer\"]}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nmore<|eot_id|>",
    "<|python_tag|>print(1 + 2)<|eom_id|><|start_header_id|>ipython<|end_header_id|>\n\n3<|eot_id|>",
    "<|python_tag|>brave_search.call(query=\"a b\")<|eom_id|>",
    NULL};
static const char *const nanochat_texts[] = {
    "Hello there.<|assistant_end|>",
    "Let me compute. <|python_start|>12*34<|python_end|><|output_start|>408<|output_end|>It is "
    "408.<|assistant_end|>",
    "a<|assistant_end|><|user_start|>b<|user_end|><|assistant_start|>c<|assistant_end|><|bos|>", NULL};
static const char *const c2c_texts[] = {" Hello there.<|endoftext|>",
                                        " one\n### Human: two### Assistant: three", NULL};

const chat_sample chat_samples[] = {
    {"qwen2.5", "text/qwen_4000.tiktoken", "qwen2.5", qwen2_texts},
    {"qwen3", "text/qwen_4000.tiktoken", "qwen3", qwen3_texts},
    {"llama3.1", "harmony/o200k_4000.tiktoken", "llama3", llama3_texts},
    {"llama3.2", "harmony/o200k_4000.tiktoken", "llama3", llama3_texts},
    {"nanochat", "text/nanochat_500.tiktoken", "nanochat", nanochat_texts},
    {"c2c", "text/qwen_4000.tiktoken", "qwen2.5", c2c_texts},
    {0},
};

ie_tokenizer *chat_sample_tokenizer(const chat_sample *sample) {
  char path[200];
  snprintf(path, sizeof path, "tests/data/%s", sample->ranks);
  return chat_tokenizer_open(path, sample->encoding);
}

const ie_chat_format *chat_sample_format(const chat_sample *sample) {
  ie_error error = {0};
  const ie_chat_format *format;
  assert_int_equal(ie_chat_format_find(sample->name, &format, &error), IE_OK);
  return format;
}

ie_ids chat_sample_ids(const ie_tokenizer *tokenizer, const char *text) {
  ie_error error = {0};
  ie_ids ids = {0};
  assert_int_equal(ie_tokenizer_encode(tokenizer, text, strlen(text), NULL, &ids, &error), IE_OK);
  return ids;
}
