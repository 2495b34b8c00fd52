/* A saved conversation, loaded in every format. What is refused leaves the conversation as it was; what is accepted can be
 * saved, and the saved file gives the same messages.
 * Covers: src/engine/conversation_json.c
 * Length: 4096 */
#include "chat.h"
#include "engine/conversation.h"

#include <stdio.h>
#include <unistd.h>

static ie_conversation *conversation_new(const fuzz_chat *chat) {
  ie_conversation *c;
  ie_error error;
  if (ie_conversation_new(chat->format, chat->tokenizer, &c, &error) != IE_OK) abort();
  if (ie_conversation_instruct(c, "before", &error) != IE_OK) abort();
  return c;
}

static void check_string(const char *a, const char *b) {
  if (!a != !b || (a && strcmp(a, b) != 0)) abort();
}

static void check_equal(const ie_conversation *a, const ie_conversation *b) {
  if (ie_conversation_count(a) != ie_conversation_count(b)) abort();
  for (size_t i = 0; i < ie_conversation_count(a); i++) {
    const ie_chat_message *x = ie_conversation_at(a, i), *y = ie_conversation_at(b, i);
    check_string(x->role, y->role);
    check_string(x->name, y->name);
    check_string(x->channel, y->channel);
    check_string(x->recipient, y->recipient);
    check_string(x->content_type, y->content_type);
    if (x->text_size != y->text_size || memcmp(x->text, y->text, x->text_size) != 0) abort();
  }
}

static void save_and_load(const fuzz_chat *chat, const ie_conversation *c) {
  char path[64];
  ie_error error;
  snprintf(path, sizeof path, "/tmp/clocher-fuzz-conversation-%d.json", (int)getpid());
  ie_conversation *again = conversation_new(chat);
  if (ie_conversation_save(c, path, &error) != IE_OK) abort();
  if (ie_conversation_load(again, path, &error) != IE_OK) abort();
  check_equal(c, again);
  ie_conversation_free(again);
  unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  for (int i = 0; i < CHATS; i++) {
    ie_error error = {0};
    ie_conversation *c = conversation_new(&chats[i]);
    ie_status status = ie_conversation_read(c, (const char *)data, size, "fuzz", &error);
    if (status == IE_OK) {
      save_and_load(&chats[i], c);
    } else if (!error.message[0] || ie_conversation_count(c) != 1 ||
               strcmp(ie_conversation_at(c, 0)->text, "before") != 0) {
      abort();
    }
    ie_conversation_free(c);
  }
  return 0;
}
