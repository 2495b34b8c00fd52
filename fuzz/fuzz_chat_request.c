/* A request as JSON. What is accepted decodes to the text that was answered.
 * Covers: src/text/harmony_render.c src/text/harmony_messages.c src/text/harmony_tools.c src/text/chat_json.c
 * Covers: src/text/chat_parts.c
 * Length: 4096 */
#include "harmony.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ie_error error = {0};
  ie_chat_prompt prompt;
  const ie_chat_options options = {.date = "2026-05-06"};
  ie_status status = ie_chat_render(harmony, tokenizer, (const char *)data, size, &options, &prompt, &error);
  if (status != IE_OK) {
    if (!error.message[0] || prompt.ids.ids || prompt.text.data) abort();
    return 0;
  }
  ie_bytes decoded = {0};
  if (ie_tokenizer_decode(tokenizer, prompt.ids.ids, prompt.ids.count, false, &decoded, &error) != IE_OK)
    abort();
  if (decoded.size != prompt.text.size) abort();
  if (decoded.size && memcmp(decoded.data, prompt.text.data, decoded.size) != 0) abort();
  ie_bytes_free(&decoded);
  ie_chat_prompt_free(&prompt);
  return 0;
}
