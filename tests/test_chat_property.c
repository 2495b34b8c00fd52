/* The chat formats other than Harmony: what support/chat_property.h says of every stream of ids. */
#include "support/chat_data.h"
#include "support/chat_formats.h"
#include "support/chat_property.h"

#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EDITS = 1500, STREAMS_MAX = 128, LONGEST = 200 };

static int32_t any_id(const chat_subject *subject) {
  static const int32_t strange[] = {-1, INT32_MIN, INT32_MAX, 200000};
  int32_t vocab = ie_tokenizer_vocab(subject->tokenizer);
  const chat_stream *from = &subject->streams[chat_draw((uint32_t)subject->stream_count)];
  switch (chat_draw(8)) {
  case 0:
  case 1:
  case 2:
    for (int tries = 0; tries < 20; tries++) { /* a marker of a valid stream */
      bool special = false;
      size_t size;
      int32_t id = from->ids[chat_draw((uint32_t)from->count)];
      ie_tokenizer_token(subject->tokenizer, id, &size, &special);
      if (special) return id;
    }
    return 10;
  case 3: return strange[chat_draw(4)];
  case 4: return (int32_t)chat_draw(256);
  case 5: return (int32_t)chat_draw((uint32_t)vocab);
  default: return from->ids[chat_draw((uint32_t)from->count)];
  }
}

static size_t streams_make(const chat_sample *sample, const ie_tokenizer *tokenizer, chat_stream *out) {
  size_t count = 0;
  for (size_t i = 0; sample->texts[i]; i++) {
    ie_ids ids = chat_sample_ids(tokenizer, sample->texts[i]);
    out[count++] = (chat_stream){"assistant", ids.ids, ids.count};
  }
  char path[200];
  snprintf(path, sizeof path, "../text/chat/%s.jsonl", sample->name);
  json_t *rows = chat_rows(path);
  for (size_t i = 0; i < json_array_size(rows) && count < STREAMS_MAX; i++) {
    const json_t *row = json_array_get(rows, i), *ids = json_object_get(row, "ids");
    json_int_t limit = json_integer_value(json_object_get(row, "max_tokens"));
    if (json_array_size(ids) > LONGEST || json_array_size(ids) == (size_t)limit || json_array_size(ids) == 0)
      continue;
    chat_stream *s = &out[count++];
    s->role = NULL;
    s->ids = chat_ids(ids, &s->count);
  }
  json_decref(rows);
  return count;
}

static void check_format(const chat_sample *sample) {
  chat_stream streams[STREAMS_MAX];
  ie_tokenizer *tokenizer = chat_sample_tokenizer(sample);
  size_t count = streams_make(sample, tokenizer, streams);
  assert_true(count > 6);
  chat_subject subject = {.format = chat_sample_format(sample),
                          .tokenizer = tokenizer,
                          .streams = streams,
                          .stream_count = count,
                          .any_id = any_id};
  if (strcmp(sample->name, "c2c") == 0) {
    subject.markers[0] = "### Human:";
    subject.markers[1] = "### Assistant:";
  }
  chat_every_prefix(&subject);
  chat_random_edits(&subject, EDITS);
  chat_random_ids(&subject, EDITS);
  for (size_t i = 0; i < count; i++) free(streams[i].ids);
  ie_tokenizer_free(tokenizer);
}

static void every_format(void **state) {
  (void)state;
  for (const chat_sample *sample = chat_samples; sample->name; sample++) {
    print_message("%s\n", sample->name);
    check_format(sample);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_format)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
