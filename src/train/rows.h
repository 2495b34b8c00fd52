/* One document of a source as ids, with what is a target of training in it.
 *
 *   text                         begin token, text, end token; all are targets. Special tokens in the text are text.
 *   {"text": "..."}              the same
 *   {"prompt": "...", "completion": "..."}  begin, prompt, completion, end; completion and end are targets
 *   {"messages": [...], ...}     a request as ie_chat_render takes it (any of its forms), rendered as a finished
 *                                conversation; targets are what the model would have to write itself: each assistant's
 *                                turn from behind the generation prompt to the token that ends it. Harmony: the last
 *                                answer ends in <|return|>; the <|end|> of an earlier one is no target, because a model
 *                                that answers says <|return|>.
 *
 * Threads: a recipe is read-only once made, so any number of threads may make rows with it. */
#ifndef CLOCHER_TRAIN_ROWS_H
#define CLOCHER_TRAIN_ROWS_H

#include "base/buf.h"
#include "clocher/chat.h"
#include "clocher/text.h"

typedef struct ie_row_recipe {
  const ie_tokenizer *tokenizer;
  const ie_chat_format *format; /* NULL: conversations are refused */
  const char *date;             /* YYYY-MM-DD, for formats that show one and rows that name none */
  int32_t begin, end;           /* -1: none */
  ie_ids opener, stops; /* of the format: what a generation prompt adds, and what ends a turn; owned */
} ie_row_recipe;

/* tokenizer, format, date, begin and end are given. */
ie_status ie_row_recipe_prepare(ie_row_recipe *recipe, ie_error *error);
void ie_row_recipe_free(ie_row_recipe *recipe);

/* All-zero is a valid empty one; it is emptied before it is filled. */
typedef struct ie_row {
  ie_ids ids;
  ie_buf mask;    /* (ids.count) 0 or 1; empty: all are targets */
  uint64_t bytes; /* of the text */
} ie_row;

void ie_row_free(ie_row *row);
ie_status ie_row_from_text(const ie_row_recipe *recipe, const char *text, size_t size, ie_row *row,
                           ie_error *error);
/* where names the line in messages. IE_FORMAT: no JSON object, none of the three forms, or a message of a conversation
 * that says nothing (no content, calls or reasoning). */
ie_status ie_row_from_json(const ie_row_recipe *recipe, const char *line, size_t size, const char *where,
                           ie_row *row, ie_error *error);

#endif
