/* What the fuzzers of Harmony share: the format, the small tokenizer, and libFuzzer's entries. Included once by each,
 * since a fuzzer is one file. */
#ifndef CLOCHER_FUZZ_HARMONY_H
#define CLOCHER_FUZZ_HARMONY_H

#include "clocher/chat.h"

#include <stdlib.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static ie_tokenizer *tokenizer;
static const ie_chat_format *harmony;

static void clean(void) {
  ie_tokenizer_free(tokenizer);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
  (void)argc;
  (void)argv;
  ie_error error;
  const ie_tokenizer_options options = {.encoding = "o200k_harmony"};
  if (ie_tokenizer_open("tests/data/harmony/o200k_4000.tiktoken", &options, &tokenizer, &error) != IE_OK)
    abort();
  if (ie_chat_format_find("harmony", &harmony, &error) != IE_OK) abort();
  return atexit(clean);
}

#endif
