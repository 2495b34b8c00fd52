/* What must hold for every stream of ids that a chat parser is given: parsing never fails; one at a time and all at
 * once give the same messages; the ranges of ids that are returned, joined, are the ids that were fed; the streamed
 * pieces of a message are its text; no word of ordinary text is lost; taken as an answer, what was returned can be
 * rendered into the next prompt, which says all that was spoken. Everything here fails the test when it fails. */
#ifndef CLOCHER_TESTS_SUPPORT_CHAT_PROPERTY_H
#define CLOCHER_TESTS_SUPPORT_CHAT_PROPERTY_H

#include "clocher/chat.h"

typedef struct chat_stream {
  const char *role; /* whose header the prompt has opened, or NULL */
  int32_t *ids;     /* (count) */
  size_t count;
} chat_stream;

typedef struct chat_subject chat_subject;
struct chat_subject {
  const ie_chat_format *format;
  ie_tokenizer *tokenizer;
  const chat_stream *streams; /* (stream_count) valid ones */
  size_t stream_count;
  int32_t (*any_id)(
      const chat_subject *subject); /* drawn with chat_draw: markers, common tokens, ids that do not exist */
  const char *markers[4];           /* of a format whose markers are plain text */
};

/* A generator for tests: the same numbers in every run. */
void chat_draw_seed(uint64_t seed);
uint32_t chat_draw(uint32_t limit);

/* valid: the stream follows the format, so nothing may be malformed. */
void chat_check_stream(const chat_subject *subject, const chat_stream *s, bool valid);
/* Removes, inserts, replaces, repeats, swaps, or takes a run from another stream. */
void chat_edit(const chat_subject *subject, chat_stream *s, size_t capacity);

/* The checks on every prefix of the streams, on random edits of them, on random ids. */
void chat_every_prefix(const chat_subject *subject);
void chat_random_edits(const chat_subject *subject, int rounds);
void chat_random_ids(const chat_subject *subject, int rounds);

#endif
