/* Conversations: messages, answers, files, and memory that runs out. The model is tests/support/chat_model.h. */
#include "support/chat_model.h"
#include "support/failing_malloc.h"
#include "support/tempdir.h"

#include "clocher/clocher.h"

#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static char *model_dir;

/* All that an answer needs. */
typedef struct engine {
  ie_device *device;
  ie_model *model;
  ie_tokenizer *tokenizer;
  ie_state *state;
  ie_conversation *conversation;
} engine;

static ie_status engine_open(engine *e, int64_t context_tok, ie_error *error) {
  const ie_chat_format *format;
  const ie_state_options o = {.context_tok = context_tok};
  *e = (engine){0};
  ie_status status = ie_device_open(&(ie_device_options){.threads = 1}, &e->device, error);
  if (status == IE_OK) status = ie_model_open(e->device, model_dir, NULL, &e->model, error);
  if (status == IE_OK) status = ie_state_new(e->model, &o, &e->state, error);
  if (status == IE_OK) status = ie_tokenizer_open_dir(model_dir, NULL, &e->tokenizer, error);
  if (status == IE_OK) status = ie_chat_format_select(NULL, model_dir, e->tokenizer, &format, error);
  if (status == IE_OK) status = ie_conversation_new(format, e->tokenizer, &e->conversation, error);
  return status;
}

static void engine_close(engine *e) {
  ie_conversation_free(e->conversation);
  ie_state_free(e->state);
  ie_tokenizer_free(e->tokenizer);
  ie_model_free(e->model);
  ie_device_free(e->device);
}

static void engine_start(engine *e, int64_t context_tok) {
  ie_error error = {0};
  if (engine_open(e, context_tok, &error) != IE_OK) fail_msg("%s", error.message);
}

static ie_chat_message user(const char *text) {
  return (ie_chat_message){.role = "user", .text = text, .text_size = strlen(text)};
}

static void say(engine *e, const char *text) {
  ie_chat_message m = user(text);
  ie_error error = {0};
  if (ie_conversation_add(e->conversation, &m, &error) != IE_OK) fail_msg("%s", error.message);
}

static ie_answer answer_get(engine *e, const ie_answer_options *options) {
  ie_answer answer;
  ie_error error = {0};
  ie_answer_options o = options ? *options : (ie_answer_options){0};
  o.sample.greedy = true;
  if (ie_conversation_answer(e->conversation, e->state, 0, &o, &answer, &error) != IE_OK)
    fail_msg("%s", error.message);
  return answer;
}

static void message_expect(const engine *e, size_t i, const char *role, const char *channel,
                           const char *text) {
  assert_true(i < ie_conversation_count(e->conversation));
  const ie_chat_message *m = ie_conversation_at(e->conversation, i);
  assert_string_equal(m->role, role);
  assert_string_equal(m->channel ? m->channel : "", channel);
  assert_string_equal(m->text, text);
  assert_int_equal(m->text_size, strlen(text));
}

static void messages_are_copied_and_checked(void **state) {
  (void)state;
  engine e;
  ie_error error = {0};
  engine_start(&e, 512);
  char text[] = "one";
  ie_chat_message m = user(text);
  assert_int_equal(ie_conversation_add(e.conversation, &m, &error), IE_OK);
  text[0] = 'X';
  message_expect(&e, 0, "user", "", "one");
  assert_int_equal(ie_conversation_add(e.conversation, &(ie_chat_message){.text = "x"}, &error),
                   IE_INVALID_ARGUMENT);
  assert_int_equal(ie_conversation_add(e.conversation,
                                       &(ie_chat_message){.role = "user", .text = "a\xC3", .text_size = 2},
                                       &error),
                   IE_FORMAT);
  assert_non_null(strstr(error.message, "byte 1 of 2"));
  assert_int_equal(ie_conversation_count(e.conversation), 1);

  assert_null(ie_conversation_instructions(e.conversation));
  assert_int_equal(ie_conversation_instruct(e.conversation, "brief", &error), IE_OK);
  message_expect(&e, 0, "system", "", "brief");
  message_expect(&e, 1, "user", "", "one");
  assert_int_equal(ie_conversation_instruct(e.conversation, "long", &error), IE_OK);
  assert_int_equal(ie_conversation_instruct(e.conversation, "\xFF", &error), IE_FORMAT);
  message_expect(&e, 0, "system", "", "long");
  assert_int_equal(ie_conversation_instruct(e.conversation, NULL, &error), IE_OK);
  message_expect(&e, 0, "user", "", "one");
  ie_conversation_truncate(e.conversation, 0);
  assert_int_equal(ie_conversation_count(e.conversation), 0);
  engine_close(&e);
}

/* The lengths that were said, one after the other. */
typedef struct said {
  int64_t tok[4];
  size_t count;
} said;

static void prompt_said(void *arg, int64_t prompt_tok) {
  said *s = arg;
  assert_true(s->count < 4);
  s->tok[s->count++] = prompt_tok;
}

static void the_prompt_is_told_once(void **state) {
  (void)state;
  engine e;
  said s = {0};
  ie_answer_options o = {.on_prompt = prompt_said, .arg = &s};
  engine_start(&e, 256);
  for (size_t turn = 1; turn <= 2; turn++) {
    int64_t tokens;
    ie_error error = {0};
    say(&e, "hi");
    assert_int_equal(ie_conversation_prompt_tok(e.conversation, NULL, &tokens, &error), IE_OK);
    ie_answer a = answer_get(&e, &o);
    assert_int_equal(s.count, turn);
    assert_int_equal(s.tok[turn - 1], a.prompt_tok);
    assert_int_equal(tokens, a.prompt_tok);
  }
  /* one that has no place is not computed, so not told */
  char text[1024];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = '\0';
  say(&e, text);
  ie_answer a;
  ie_error error = {0};
  assert_int_equal(ie_conversation_answer(e.conversation, e.state, 0, &o, &a, &error), IE_LIMIT);
  assert_int_equal(s.count, 2);
  engine_close(&e);
}

static void an_answer_is_its_messages(void **state) {
  (void)state;
  engine e;
  engine_start(&e, 1024);
  say(&e, "hi");
  ie_answer a = answer_get(&e, NULL);
  assert_int_equal(a.reason, IE_STOP_EOS);
  assert_int_equal(a.first, 1);
  assert_false(a.context_full);
  assert_int_equal(a.reused_prompt_tok, 0);
  assert_int_equal(a.computed_prompt_tok, a.prompt_tok);
  assert_int_equal(a.new_tok, 16);
  assert_int_equal(ie_conversation_count(e.conversation), 3);
  message_expect(&e, 1, "assistant", "analysis", CHAT_MODEL_THOUGHT);
  message_expect(&e, 2, "assistant", "final", CHAT_MODEL_ANSWER);

  say(&e, "and?");
  ie_answer b = answer_get(&e, NULL);
  assert_int_equal(b.first, 4);
  assert_int_equal(b.reused_prompt_tok + b.computed_prompt_tok, b.prompt_tok);
  /* The prompt of before, but not the reasoning, which is no longer part of it. */
  assert_true(b.reused_prompt_tok >= a.prompt_tok);
  assert_true(b.reused_prompt_tok < a.prompt_tok + a.new_tok);
  message_expect(&e, 5, "assistant", "final", CHAT_MODEL_ANSWER);
  engine_close(&e);
}

static void a_call_ends_the_turn(void **state) {
  (void)state;
  engine e;
  ie_error error = {0};
  engine_start(&e, 1024);
  say(&e, "@");
  ie_answer a = answer_get(&e, NULL); /* <|call|> is no stop id of the model, but of the format */
  assert_int_equal(a.reason, IE_STOP_EOS);
  assert_int_equal(ie_conversation_count(e.conversation), 2);
  message_expect(&e, 1, "assistant", "commentary", "{\"q\":1}");
  assert_string_equal(ie_conversation_at(e.conversation, 1)->recipient, "functions.look");
  assert_int_equal(ie_conversation_add(e.conversation,
                                       &(ie_chat_message){.role = "tool",
                                                          .name = "functions.look",
                                                          .recipient = "assistant",
                                                          .channel = "commentary",
                                                          .text = "20%",
                                                          .text_size = 3},
                                       &error),
                   IE_OK);
  answer_get(&e, NULL);
  message_expect(&e, 3, "assistant", "final", CHAT_MODEL_ANSWER);
  engine_close(&e);
}

static void nobody_else_is_spoken_for(void **state) {
  (void)state;
  engine e;
  engine_start(&e, 1024);
  say(&e, "$");
  ie_answer a = answer_get(&e, NULL);
  assert_int_equal(a.reason, IE_STOP_EOS);
  assert_int_equal(ie_conversation_count(e.conversation), 2);
  message_expect(&e, 1, "assistant", "analysis", CHAT_MODEL_THOUGHT);
  engine_close(&e);
}

/* Stops after some bytes of text. */
typedef struct stopper {
  size_t bytes, after;
  char text[256];
} stopper;

static bool event_count(void *arg, const ie_chat_parser *parser, const ie_chat_event *event) {
  stopper *s = arg;
  assert_true(event->message >= 0 && (size_t)event->message < ie_chat_parser_count(parser));
  if (s->bytes + event->text_size < sizeof s->text && event->text_size)
    memcpy(s->text + s->bytes, event->text, event->text_size);
  s->bytes += event->text_size;
  return s->bytes < s->after;
}

static bool always(void *arg) {
  (void)arg;
  return true;
}

static void what_was_said_before_a_stop_is_kept(void **state) {
  (void)state;
  engine e;
  engine_start(&e, 100000);
  say(&e, "~");
  stopper s = {.after = strlen(CHAT_MODEL_THOUGHT "Hello again again")};
  ie_answer a = answer_get(&e, &(ie_answer_options){.on_event = event_count, .arg = &s});
  assert_int_equal(a.reason, IE_STOP_CANCELLED);
  assert_string_equal(s.text, CHAT_MODEL_THOUGHT "Hello again again");
  message_expect(&e, 2, "assistant", "final", "Hello again again");

  /* In its reasoning, and in the prompt: no message. */
  ie_conversation_truncate(e.conversation, 1);
  s = (stopper){.after = 1};
  a = answer_get(&e, &(ie_answer_options){.on_event = event_count, .arg = &s});
  assert_int_equal(a.reason, IE_STOP_CANCELLED);
  assert_int_equal(ie_conversation_count(e.conversation), 1);
  a = answer_get(&e, &(ie_answer_options){.cancelled = always});
  assert_int_equal(a.reason, IE_STOP_CANCELLED);
  assert_int_equal(ie_conversation_count(e.conversation), 1);
  engine_close(&e);
}

static void limits(void **state) {
  (void)state;
  engine e;
  ie_error error = {0};
  ie_answer answer;
  engine_start(&e, 300);
  say(&e, "~");
  ie_answer a = answer_get(&e, &(ie_answer_options){.max_new = 11});
  assert_int_equal(a.reason, IE_STOP_LENGTH);
  assert_int_equal(a.new_tok, 11);
  assert_false(a.context_full);
  message_expect(&e, 2, "assistant", "final", "Hello");
  ie_conversation_truncate(e.conversation, 1);
  a = answer_get(&e, NULL);
  assert_int_equal(a.reason, IE_STOP_LENGTH);
  assert_true(a.context_full);
  assert_int_equal(a.prompt_tok + a.new_tok, 300);

  uint64_t before = ie_state_work_done(e.state).forwards;
  size_t count = ie_conversation_count(e.conversation);
  char long_text[400];
  memset(long_text, 'x', sizeof long_text - 1);
  long_text[sizeof long_text - 1] = '\0';
  say(&e, long_text);
  assert_int_equal(
      ie_conversation_answer(e.conversation, e.state, 0, &(ie_answer_options){0}, &answer, &error), IE_LIMIT);
  assert_non_null(strstr(error.message, "the context holds 300"));
  assert_int_equal(ie_state_work_done(e.state).forwards, before);
  assert_int_equal(ie_conversation_count(e.conversation), count + 1);
  int64_t tokens;
  assert_int_equal(ie_conversation_prompt_tok(e.conversation, NULL, &tokens, &error), IE_OK);
  assert_true(tokens > 600);
  engine_close(&e);
}

static void files_round_trip(void **state) {
  (void)state;
  engine e;
  ie_error error = {0};
  char *dir = tempdir_make(), path[512];
  snprintf(path, sizeof path, "%s/talk.json", dir);
  engine_start(&e, 1024);
  assert_int_equal(ie_conversation_instruct(e.conversation, "brief", &error), IE_OK);
  assert_int_equal(
      ie_conversation_add(e.conversation,
                          &(ie_chat_message){.role = "user", .text = "a\0b\xC3\xA9", .text_size = 5}, &error),
      IE_OK);
  say(&e, "@");
  answer_get(&e, NULL);
  assert_int_equal(ie_conversation_save(e.conversation, path, &error), IE_OK);
  ie_conversation_truncate(e.conversation, 0);
  say(&e, "other");
  assert_int_equal(ie_conversation_load(e.conversation, path, &error), IE_OK);
  assert_int_equal(ie_conversation_count(e.conversation), 4);
  const ie_chat_message *m = ie_conversation_at(e.conversation, 1);
  assert_int_equal(m->text_size, 5);
  assert_memory_equal(m->text, "a\0b\xC3\xA9", 6);
  m = ie_conversation_at(e.conversation, 3);
  assert_string_equal(m->recipient, "functions.look");
  assert_string_equal(m->content_type, "<|constrain|>json");
  assert_null(m->name);

  /* Cut anywhere, it is refused, and what was there stays. */
  ie_conversation_truncate(e.conversation, 0);
  say(&e, "mine");
  char text[2048];
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  size_t size = fread(text, 1, sizeof text, file);
  fclose(file);
  for (size_t n = 0; n + 1 < size; n++) {
    tempdir_write(dir, "talk.json", text, n);
    ie_status status = ie_conversation_load(e.conversation, path, &error);
    if (status != IE_FORMAT) fail_msg("cut at byte %zu of %zu: %s", n, size, ie_status_name(status));
  }
  static const char *const bad[] = {
      "[]",
      "{}",
      "{\"messages\": {}}",
      "{\"messages\": [1]}",
      "{\"messages\": [{\"content\": \"x\"}]}",
      "{\"messages\": [{\"role\": \"user\"}]}",
      "{\"messages\": [{\"role\": \"user\", \"content\": null}]}",
      "{\"messages\": [{\"role\": \"wizard\", \"content\": \"x\"}]}",
      "{\"messages\": [{\"role\": 1, \"content\": \"x\"}]}",
      "{\"messages\": [{\"role\": \"user\", \"channel\": 1, \"content\": \"x\"}]}"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    tempdir_write_text(dir, "talk.json", bad[i]);
    assert_int_equal(ie_conversation_load(e.conversation, path, &error), IE_FORMAT);
    assert_non_null(strstr(error.message, path));
  }
  assert_int_equal(ie_conversation_load(e.conversation, "/nowhere/x.json", &error), IE_IO);
  assert_int_equal(ie_conversation_save(e.conversation, "/nowhere/x.json", &error), IE_IO);
  assert_int_equal(ie_conversation_count(e.conversation), 1);
  message_expect(&e, 0, "user", "", "mine");
  engine_close(&e);
  tempdir_remove(dir);
}

/* --- Memory that runs out --------------------------------------------------------------------------------------- */

static engine shared;
static char saved_path[512];

static ie_status talk(void *arg, ie_error *error) {
  (void)arg;
  const ie_chat_format *format;
  ie_conversation *c = NULL;
  ie_answer answer;
  ie_chat_message m = user("hi");
  ie_status status = ie_chat_format_find("harmony", &format, error);
  if (status == IE_OK) status = ie_conversation_new(format, shared.tokenizer, &c, error);
  if (status == IE_OK) status = ie_conversation_instruct(c, "brief", error);
  if (status == IE_OK) status = ie_conversation_add(c, &m, error);
  if (status == IE_OK)
    status = ie_conversation_answer(c, shared.state, 0, &(ie_answer_options){.sample.greedy = true}, &answer,
                                    error);
  if (status == IE_OK && ie_conversation_count(c) != 4)
    status = ie_error_set(error, IE_INTERNAL, "%zu messages", ie_conversation_count(c));
  /* Whatever failed, nothing half-said is left. */
  if (status != IE_OK && status != IE_INTERNAL && c && ie_conversation_count(c) > 2)
    status = ie_error_set(error, IE_INTERNAL, "%zu messages after a failure", ie_conversation_count(c));
  ie_conversation_free(c);
  return status;
}

static ie_status keep(void *arg, ie_error *error) {
  (void)arg;
  ie_status status = ie_conversation_save(shared.conversation, saved_path, error);
  if (status == IE_OK) status = ie_conversation_load(shared.conversation, saved_path, error);
  if (ie_conversation_count(shared.conversation) != 1)
    status = ie_error_set(error, IE_INTERNAL, "%zu messages", ie_conversation_count(shared.conversation));
  return status;
}

static const failing_case cases[] = {{.name = "an answer", .run = talk},
                                     {.name = "save and load", .run = keep, .tolerant = true}};

static void exhaust(void **state) {
  failing_malloc_exhaust(*state, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(messages_are_copied_and_checked),
      cmocka_unit_test(an_answer_is_its_messages),
      cmocka_unit_test(the_prompt_is_told_once),
      cmocka_unit_test(a_call_ends_the_turn),
      cmocka_unit_test(nobody_else_is_spoken_for),
      cmocka_unit_test(what_was_said_before_a_stop_is_kept),
      cmocka_unit_test(limits),
      cmocka_unit_test(files_round_trip),
      {.name = "memory: an answer", .test_func = exhaust, .initial_state = (void *)(uintptr_t)&cases[0]},
      {.name = "memory: save and load", .test_func = exhaust, .initial_state = (void *)(uintptr_t)&cases[1]},
  };
  model_dir = chat_model_make();
  snprintf(saved_path, sizeof saved_path, "%s/saved.json", model_dir);
  engine_start(&shared, 1024);
  say(&shared, "hi");
  failing_malloc_install();
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  failing_malloc_uninstall();
  engine_close(&shared);
  tempdir_remove(model_dir);
  return failed;
}
