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
};

#endif
