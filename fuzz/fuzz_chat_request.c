/* A request as JSON, rendered by every format. What is accepted decodes to the text that was answered.
 * Covers: src/text/harmony_render.c src/text/harmony_messages.c src/text/harmony_tools.c src/text/chat_json.c
 * Covers: src/text/chat_parts.c src/text/chat_turns.c src/text/chatml.c src/text/llama3.c src/text/nanochat_chat.c
 * Length: 4096 */
#include "chat.h"

/* Qwen's tokenizers normalise, so that the text may come back in another form. */
static void check_text(const fuzz_chat *chat, const ie_chat_prompt *prompt) {
  ie_error error;
  ie_bytes decoded = {0};
  if (ie_tokenizer_decode(chat->tokenizer, prompt->ids.ids, prompt->ids.count, false, &decoded, &error) !=
      IE_OK)
    abort();
  bool exact = strncmp(chat->encoding, "qwen", 4) != 0;
  if (exact && decoded.size != prompt->text.size) abort();
  if (exact && decoded.size && memcmp(decoded.data, prompt->text.data, decoded.size) != 0) abort();
  ie_bytes_free(&decoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  for (int i = 0; i < CHATS; i++) {
    ie_error error = {0};
    ie_chat_prompt prompt;
    const ie_chat_options options = {.date = "2026-05-06"};
    ie_status status = ie_chat_render(chats[i].format, chats[i].tokenizer, (const char *)data, size, &options,
                                      &prompt, &error);
    if (status != IE_OK) {
      if (!error.message[0] || prompt.ids.ids || prompt.text.data || prompt.mask) abort();
      continue;
    }
    check_text(&chats[i], &prompt);
    ie_chat_prompt_free(&prompt);
  }
  return 0;
}
