/* What the text of a chat template says, for recognising its family: publishers reformat templates (white space, the
 * side of a line break a tag stands on, double or single quotes), but keep the sentences that the model was trained
 * on. */
#ifndef CLOCHER_TEXT_CHAT_TEMPLATE_H
#define CLOCHER_TEXT_CHAT_TEMPLATE_H

#include "clocher/text.h"

/* The template holds these words. White space, a written-out \n and the kind of quotes are not compared. */
bool chat_template_has(const char *text, size_t size, const char *words);

/* The tokenizer has all of these added tokens (NULL-terminated names). */
bool chat_tokens_exist(const ie_tokenizer *tokenizer, const char *const *names);

#endif
