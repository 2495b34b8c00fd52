/* Harmony: what support/chat_property.h says of every stream of ids, on every prefix of valid streams and on random
 * edits of them. */
#include "support/chat_data.h"
#include "support/chat_property.h"

#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EDITS = 10000, STREAMS_MAX = 256 };

static ie_tokenizer *tokenizer;
static json_t *parse_rows, *render_rows;
static chat_stream streams[STREAMS_MAX];
static size_t stream_count;

/* ---- valid streams ---- */

static void add_stream(const char *role, const json_t *ids) {
  assert_true(stream_count < STREAMS_MAX);
  chat_stream *s = &streams[stream_count++];
  s->role = role;
  s->ids = chat_ids(ids, &s->count);
}

static int setup(void **state) {
  (void)state;
  tokenizer = chat_tokenizer();
  parse_rows = chat_rows("parse.jsonl");
  render_rows = chat_rows("render.jsonl");
  for (size_t i = 0; i < json_array_size(parse_rows); i++) {
    const json_t *row = json_array_get(parse_rows, i);
    if (!json_object_get(json_object_get(row, "strict"), "messages") || json_object_get(row, "doubtful"))
      continue;
    if (!json_object_get(row, "unknown_id"))
      add_stream(chat_string(row, "role"), json_object_get(row, "ids"));
  }
  for (size_t i = 0; i < json_array_size(render_rows); i++) {
    const json_t *ids = json_object_get(json_array_get(render_rows, i), "training_ids");
    if (json_array_size(ids) < 400) add_stream(NULL, ids);
  }
  assert_true(stream_count > 30);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  for (size_t i = 0; i < stream_count; i++) free(streams[i].ids);
  json_decref(parse_rows);
  json_decref(render_rows);
  ie_tokenizer_free(tokenizer);
  return 0;
}

/* Any id: mostly markers and common tokens, sometimes bytes, reserved ids and ids that do not exist. */
static int32_t any_id(const chat_subject *subject) {
  (void)subject;
  static const int32_t markers[] = {200002, 200003, 200005, 200006, 200007, 200008, 200012, 199999};
  static const int32_t strange[] = {-1, INT32_MIN, INT32_MAX, 4000, 199997, 200018, 200500, 201088, 201089};
  switch (chat_draw(8)) {
  case 0:
  case 1:
  case 2: return markers[chat_draw(8)];
  case 3: return strange[chat_draw(9)];
  case 4: return (int32_t)chat_draw(256);
  default: return (int32_t)chat_draw(4000);
  }
}

static chat_subject subject(void) {
  return (chat_subject){.format = chat_harmony(),
                        .tokenizer = tokenizer,
                        .streams = streams,
                        .stream_count = stream_count,
                        .any_id = any_id};
}

static void every_prefix(void **state) {
  (void)state;
  chat_subject s = subject();
  chat_every_prefix(&s);
}

static void random_edits(void **state) {
  (void)state;
  chat_subject s = subject();
  chat_random_edits(&s, EDITS);
}

static void random_ids(void **state) {
  (void)state;
  chat_subject s = subject();
  chat_random_ids(&s, EDITS);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_prefix),
      cmocka_unit_test(random_edits),
      cmocka_unit_test(random_ids),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
