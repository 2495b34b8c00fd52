/* Private to the conversation files; the manual is clocher/conversation.h. */
#ifndef CLOCHER_ENGINE_CONVERSATION_H
#define CLOCHER_ENGINE_CONVERSATION_H

#include "clocher/conversation.h"

struct ie_conversation {
  const ie_chat_format *format;
  const ie_tokenizer *tokenizer;
  ie_ids stop;               /* the format's */
  ie_chat_message *messages; /* (count), strings are owned */
  size_t count, capacity;
  char *saved_format; /* ie_conversation_saved_format; owned, or NULL */
};

/* ie_conversation_load of a file's bytes; path is for messages. */
ie_status ie_conversation_read(ie_conversation *conversation, const char *text, size_t size, const char *path,
                               ie_error *error);

#endif
