/* Conversations: messages, answers, files, and memory that runs out. The model is tests/support/chat_model.h. */
#include "support/chat_formats.h"
#include "support/chat_model.h"
#include "support/failing_malloc.h"
#include "support/random_model.h"
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

static ie_answer turn_take(engine *e, const char *text, const ie_answer_options *options) {
  ie_chat_message m = user(text);
  ie_answer answer;
  ie_error error = {0};
  if (ie_conversation_turn(e->conversation, &m, e->state, 0, options, &answer, &error) != IE_OK)
    fail_msg("%s: %s", text, error.message);
  return answer;
}

/* Stopped in the prompt, a turn is taken back, and the next one can be rendered; said, or in its reasoning, too. */
static void turns_expect(engine *e) {
  const ie_answer_options stopped = {.cancelled = always}, some = {.max_new = 5, .sample.greedy = true};
  ie_error error = {0};
  for (size_t round = 0; round < 2; round++) {
    ie_conversation_truncate(e->conversation, 0);
    if (round) assert_int_equal(ie_conversation_instruct(e->conversation, "brief", &error), IE_OK);
    for (size_t turn = 0; turn < 3; turn++) {
      size_t before = ie_conversation_count(e->conversation);
      ie_answer a = turn_take(e, "one", &stopped);
      assert_int_equal(a.reason, IE_STOP_CANCELLED);
      assert_int_equal(a.first, before);
      assert_int_equal(ie_conversation_count(e->conversation), before);
      a = turn_take(e, "two", &some);
      size_t count = ie_conversation_count(e->conversation);
      if (count == before) continue;
      assert_int_equal(a.first, before + 1);
      assert_string_equal(ie_conversation_at(e->conversation, before)->role, "user");
      assert_string_equal(ie_conversation_at(e->conversation, count - 1)->role, "assistant");
    }
  }
}

static void a_turn_without_an_answer_is_taken_back(void **state) {
  (void)state;
  engine e;
  engine_start(&e, 2000); /* harmony */
  turns_expect(&e);
  ie_conversation_truncate(e.conversation, 0);
  turn_take(&e, "hi", &(ie_answer_options){.max_new = 5, .sample.greedy = true}); /* in its reasoning */
  assert_int_equal(ie_conversation_count(e.conversation), 0);
  ie_chat_message bad = {.role = "wizard", .text = "x", .text_size = 1};
  ie_answer answer;
  ie_error error = {0};
  assert_int_equal(
      ie_conversation_turn(e.conversation, &bad, e.state, 0, &(ie_answer_options){0}, &answer, &error),
      IE_FORMAT);
  assert_int_equal(ie_conversation_count(e.conversation), 0);
  engine_close(&e);
}

/* The other formats, with weights that make no sense. */
static void so_it_is_in_every_format(void **state) {
  (void)state;
  for (const chat_sample *sample = chat_samples; sample->name; sample++) {
    engine e = {0};
    ie_error error = {0};
    const ie_state_options o = {.context_tok = 512};
    e.tokenizer = chat_sample_tokenizer(sample);
    random_model m = {.arch = RANDOM_LLAMA,
                      .layers = 1,
                      .width = 16,
                      .ffn = 16,
                      .heads = 1,
                      .kv_heads = 1,
                      .head_dim = 16,
                      .vocab = ie_tokenizer_vocab(e.tokenizer),
                      .dtype = IE_BF16,
                      .seed = 3};
    char *dir = tempdir_make();
    random_model_write(&m, dir);
    ie_status status = ie_device_open(&(ie_device_options){.threads = 1}, &e.device, &error);
    if (status == IE_OK) status = ie_model_open(e.device, dir, NULL, &e.model, &error);
    if (status == IE_OK) status = ie_state_new(e.model, &o, &e.state, &error);
    if (status == IE_OK)
      status = ie_conversation_new(chat_sample_format(sample), e.tokenizer, &e.conversation, &error);
    if (status != IE_OK) fail_msg("%s: %s", sample->name, error.message);
    print_message("%s\n", sample->name);
    turns_expect(&e);
    engine_close(&e);
    tempdir_remove(dir);
  }
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
  assert_string_equal(ie_conversation_saved_format(e.conversation), "harmony");
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
      "{\"chat_format\": 5, \"messages\": []}",
      "{}",
      "{\"messages\": {}}",
      "{\"messages\": [1]}",
      "{\"messages\": [{\"content\": \"x\"}]}",
      "{\"messages\": [{\"role\": \"user\"}]}",
      "{\"messages\": [{\"role\": \"user\", \"content\": null}]}",
      "{\"messages\": [{\"role\": \"wizard\", \"content\": \"x\"}]}",
      "{\"messages\": [{\"role\": 1, \"content\": \"x\"}]}",
      "{\"messages\": [{\"role\": \"user\", \"channel\": 1, \"content\": \"x\"}]}",
      "{\"messages\": [], \"tools\": \"zz\"}",
      "{\"messages\": [], \"kwargs\": 7}",
      "{\"messages\": [], \"add_generation_prompt\": 1}",
      "{\"messages\": [{\"role\": \"assistant\", \"content\": null}]}",
      "{\"messages\": [{\"role\": \"assistant\", \"content\": \"\", \"thinking\": 1}]}",
      "{\"messages\": [{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": {}}]}",
      "{\"messages\": [{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [1]}]}",
      "{\"messages\": [{\"role\": \"user\", \"content\": \"\", \"tool_calls\": [{\"name\": \"f\"}]}]}",
      "{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [{\"name\": \"f\", \"arguments\": 1}]}]}"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    tempdir_write_text(dir, "talk.json", bad[i]);
    assert_int_equal(ie_conversation_load(e.conversation, path, &error), IE_FORMAT);
    assert_non_null(strstr(error.message, path));
  }
  tempdir_write_text(
      dir, "talk.json",
      "{\"chat_format\": \"qwen3\", \"messages\": [{\"role\": \"user\", \"content\": \"mine\"}]}");
  assert_int_equal(ie_conversation_load(e.conversation, path, &error), IE_OK);
  assert_string_equal(ie_conversation_saved_format(e.conversation), "qwen3");
  assert_int_equal(ie_conversation_load(e.conversation, "/nowhere/x.json", &error), IE_IO);
  assert_string_equal(ie_conversation_saved_format(e.conversation), "qwen3");
  assert_int_equal(ie_conversation_save(e.conversation, "/nowhere/x.json", &error), IE_IO);
  assert_int_equal(ie_conversation_count(e.conversation), 1);
  message_expect(&e, 0, "user", "", "mine");
  engine_close(&e);
  tempdir_remove(dir);
}

/* A request that somebody else wrote: calls and reasoning become messages, and a call waits for its answer. */
static void requests_are_loaded(void **state) {
  (void)state;
  engine e;
  ie_error error = {0};
  char *dir = tempdir_make();
  engine_start(&e, 1024);
  tempdir_write_text(
      dir, "talk.json",
      "{\"tools\": [], \"kwargs\": {}, \"messages\": ["
      "{\"role\": \"user\", \"content\": \"@\"},"
      "{\"role\": \"assistant\", \"content\": null, \"reasoning_content\": \"Hm.\", \"tool_calls\": ["
      "{\"id\": \"a\", \"function\": {\"name\": \"look\", \"arguments\": {\"q\": 1}}},"
      "{\"id\": \"b\", \"function\": {\"name\": \"my.find\", \"arguments\": \"{}\"}}]},"
      "{\"role\": \"tool\", \"tool_call_id\": \"b\", \"content\": \"two\"},"
      "{\"role\": \"assistant\", \"content\": \"And\", \"tool_calls\": [{\"name\": \"look\"}]}]}");
  if (ie_conversation_load(e.conversation, tempdir_path(dir, "talk.json"), &error) != IE_OK)
    fail_msg("%s", error.message);
  assert_int_equal(ie_conversation_count(e.conversation), 7);
  message_expect(&e, 1, "assistant", "analysis", "Hm.");
  message_expect(&e, 2, "assistant", "commentary", "{\"q\":1}");
  assert_string_equal(ie_conversation_at(e.conversation, 2)->recipient, "functions.look");
  assert_string_equal(ie_conversation_at(e.conversation, 2)->content_type, "<|constrain|>json");
  assert_string_equal(ie_conversation_at(e.conversation, 3)->recipient, "my.find");
  message_expect(&e, 4, "tool", "commentary", "two");
  assert_string_equal(ie_conversation_at(e.conversation, 4)->name, "my.find");
  message_expect(&e, 5, "assistant", "commentary", "And");
  message_expect(&e, 6, "assistant", "commentary", "");
  assert_string_equal(ie_conversation_at(e.conversation, 6)->recipient, "functions.look");
  engine_close(&e);
  tempdir_remove(dir);
}

/* Adds what a model writes, as an answer does: up to the message of somebody else. */
static void written_add(ie_conversation *c, const chat_sample *sample, const ie_tokenizer *tokenizer,
                        const char *text) {
  ie_error error = {0};
  ie_chat_parser *parser;
  ie_ids ids = chat_sample_ids(tokenizer, text);
  if (ie_chat_parse(chat_sample_format(sample), tokenizer, "assistant", ids.ids, ids.count, &parser,
                    &error) != IE_OK)
    fail_msg("%s: %s", sample->name, error.message);
  for (size_t i = 0; i < ie_chat_parser_count(parser); i++) {
    const ie_chat_message *m = &ie_chat_parser_at(parser, i)->message;
    if (strcmp(m->role, "assistant") != 0) break;
    assert_int_equal(ie_conversation_add(c, m, &error), IE_OK);
  }
  ie_chat_parser_free(parser);
  ie_ids_free(&ids);
}

static bool same(const char *a, const char *b) {
  return !a == !b && (!a || strcmp(a, b) == 0);
}

/* Counts, saves, loads and counts again; the file is a request. */
static void round_trip(const ie_chat_format *format, const ie_tokenizer *tokenizer, const ie_conversation *c,
                       const char *dir) {
  ie_error error = {0};
  const char *name = ie_chat_format_name(format), *path = tempdir_path(dir, "talk.json");
  int64_t before = -1, after = -2;
  size_t count = ie_conversation_count(c);
  ie_conversation *again;
  ie_chat_prompt prompt;
  char text[8192];
  if (ie_conversation_prompt_tok(c, NULL, &before, &error) != IE_OK)
    fail_msg("%s, %zu messages: %s", name, count, error.message);
  assert_int_equal(ie_conversation_save(c, path, &error), IE_OK);
  assert_int_equal(ie_conversation_new(format, tokenizer, &again, &error), IE_OK);
  if (ie_conversation_load(again, path, &error) != IE_OK)
    fail_msg("%s, %zu messages: %s", name, count, error.message);
  assert_int_equal(ie_conversation_count(again), count);
  for (size_t i = 0; i < count; i++) {
    const ie_chat_message *x = ie_conversation_at(c, i), *y = ie_conversation_at(again, i);
    assert_true(same(x->role, y->role) && same(x->channel, y->channel) && same(x->recipient, y->recipient) &&
                same(x->content_type, y->content_type) && same(x->text, y->text));
  }
  assert_int_equal(ie_conversation_prompt_tok(again, NULL, &after, &error), IE_OK);
  assert_int_equal(before, after);
  ie_conversation_free(again);

  FILE *file = fopen(path, "r");
  assert_non_null(file);
  size_t size = fread(text, 1, sizeof text, file);
  fclose(file);
  assert_true(size < sizeof text);
  if (ie_chat_render(format, tokenizer, text, size, NULL, &prompt, &error) != IE_OK)
    fail_msg("%s, %zu messages as a request: %s", name, count, error.message);
  ie_chat_prompt_free(&prompt);
}

static void every_format_loads_what_it_saved(void **state) {
  (void)state;
  char *dir = tempdir_make();
  for (const chat_sample *s = chat_samples; s->name; s++) {
    ie_tokenizer *tokenizer = chat_sample_tokenizer(s);
    const ie_chat_format *format = chat_sample_format(s);
    for (const char *const *text = s->texts; *text; text++) {
      ie_error error = {0};
      ie_conversation *c;
      ie_chat_message m = user("hi");
      int64_t before, answered;
      assert_int_equal(ie_conversation_new(format, tokenizer, &c, &error), IE_OK);
      round_trip(format, tokenizer, c, dir);
      assert_int_equal(ie_conversation_instruct(c, "brief", &error), IE_OK);
      round_trip(format, tokenizer, c, dir);
      for (int turn = 0; turn < 2; turn++) {
        assert_int_equal(ie_conversation_prompt_tok(c, NULL, &before, &error), IE_OK);
        assert_int_equal(ie_conversation_add(c, &m, &error), IE_OK);
        round_trip(format, tokenizer, c, dir);
        written_add(c, s, tokenizer, *text);
        round_trip(format, tokenizer, c, dir);
        assert_int_equal(ie_conversation_prompt_tok(c, NULL, &answered, &error), IE_OK);
        assert_true(answered > before); /* c2c's header is as long as a short answer */
      }
      ie_conversation_free(c);
    }
    ie_tokenizer_free(tokenizer);
  }
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
      cmocka_unit_test(a_turn_without_an_answer_is_taken_back),
      cmocka_unit_test(so_it_is_in_every_format),
      cmocka_unit_test(limits),
      cmocka_unit_test(files_round_trip),
      cmocka_unit_test(requests_are_loaded),
      cmocka_unit_test(every_format_loads_what_it_saved),
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
