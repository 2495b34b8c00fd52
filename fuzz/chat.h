/* What the fuzzers of chat formats share: every format with a small tokenizer, and libFuzzer's entries. Included once by
 * each, since a fuzzer is one file. */
#ifndef CLOCHER_FUZZ_CHAT_H
#define CLOCHER_FUZZ_CHAT_H

#include "clocher/chat.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct fuzz_chat {
  const char *name, *ranks, *encoding;
  const ie_chat_format *format;
  ie_tokenizer *tokenizer;
} fuzz_chat;

enum { CHATS = 7 };

static fuzz_chat chats[CHATS] = {
    {.name = "harmony", .ranks = "tests/data/harmony/o200k_4000.tiktoken", .encoding = "o200k_harmony"},
    {.name = "qwen2.5", .ranks = "tests/data/text/qwen_4000.tiktoken", .encoding = "qwen2.5"},
    {.name = "qwen3", .ranks = "tests/data/text/qwen_4000.tiktoken", .encoding = "qwen3"},
    {.name = "llama3.1", .ranks = "tests/data/harmony/o200k_4000.tiktoken", .encoding = "llama3"},
    {.name = "llama3.2", .ranks = "tests/data/harmony/o200k_4000.tiktoken", .encoding = "llama3"},
    {.name = "nanochat", .ranks = "tests/data/text/nanochat_500.tiktoken", .encoding = "nanochat"},
    {.name = "c2c", .ranks = "tests/data/text/qwen_4000.tiktoken", .encoding = "qwen2.5"},
};

static void clean(void) {
  for (int i = 0; i < CHATS; i++) ie_tokenizer_free(chats[i].tokenizer);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
  (void)argc;
  (void)argv;
  ie_error error;
  for (int i = 0; i < CHATS; i++) {
    const ie_tokenizer_options options = {.encoding = chats[i].encoding};
    if (ie_tokenizer_open(chats[i].ranks, &options, &chats[i].tokenizer, &error) != IE_OK) abort();
    if (ie_chat_format_find(chats[i].name, &chats[i].format, &error) != IE_OK) abort();
  }
  return atexit(clean);
}

#endif
