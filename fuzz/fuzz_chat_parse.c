/* Ids that a model might write. The first byte chooses role (two bits) and format, then two bytes are an id: a token of
 * the small vocabulary, a marker, or an id that does not exist. Pushed one by one and all at once, checked as
 * tests/support/chat_property.h says.
 * Covers: src/text/harmony_parse.c src/text/harmony_header.c src/text/chat_parser.c
 * Covers: src/text/chat_tagged.c src/text/chat_call.c src/text/c2c_parse.c
 * Length: 512 */
#include "chat.h"

static int32_t id_of(const fuzz_chat *chat, const uint8_t *two) {
  static const int32_t others[] = {200002, 200003, 200005, 200006, 200007, 200008,   200012,
                                   199999, 200500, 201089, 150000, -1,     INT32_MAX};
  static const char *const markers[] = {
      "<|im_start|>",      "<|im_end|>",       "<|endoftext|>",  "<think>",
      "</think>",          "<tool_call>",      "</tool_call>",   "<|start_header_id|>",
      "<|end_header_id|>", "<|eot_id|>",       "<|eom_id|>",     "<|python_tag|>",
      "<|bos|>",           "<|user_start|>",   "<|user_end|>",   "<|assistant_start|>",
      "<|assistant_end|>", "<|python_start|>", "<|python_end|>", "<|output_start|>",
      "<|output_end|>"};
  unsigned value = ((unsigned)two[0] | (unsigned)two[1] << 8) & 0xFFF;
  if (value < 4000) return (int32_t)value;
  if (chat == chats) return others[(value - 4000) % (sizeof others / sizeof others[0])];
  return ie_tokenizer_special_id(chat->tokenizer,
                                 markers[(value - 4000) % (sizeof markers / sizeof markers[0])]);
}

/* The pieces of the open message so far. */
static char text[1 << 20];
static size_t text_size;
static int64_t message;

static void check_event(const ie_chat_parser *parser, const ie_chat_event *event) {
  if (event->opened != (event->message > message)) abort();
  if (event->opened) text_size = 0;
  if (event->message < 0) return;
  message = event->message;
  if (text_size + event->text_size > sizeof text) abort();
  memcpy(text + text_size, event->text, event->text_size);
  text_size += event->text_size;
  const ie_chat_message *m = &ie_chat_parser_at(parser, (size_t)message)->message;
  if (m->text_size != text_size || memcmp(m->text, text, text_size) != 0) abort();
}

/* The ranges of ids follow each other. */
static void check_ranges(const ie_chat_parser *parser, size_t count) {
  size_t from = 0;
  for (size_t i = 0; i < ie_chat_parser_count(parser); i++) {
    const ie_chat_parsed *m = ie_chat_parser_at(parser, i);
    if (m->first_id != from || m->end_id < from || m->content_end_id > m->end_id) abort();
    if (m->content_id < from || m->content_id > m->content_end_id) abort();
    from = m->end_id;
  }
  if (from > count || ie_chat_parser_ids(parser)->count != count) abort();
}

static void check_equal(const ie_chat_parser *a, const ie_chat_parser *b) {
  if (ie_chat_parser_count(a) != ie_chat_parser_count(b)) abort();
  if (ie_chat_parser_complete(a) != ie_chat_parser_complete(b)) abort();
  if (ie_chat_parser_malformed(a) != ie_chat_parser_malformed(b)) abort();
  for (size_t i = 0; i < ie_chat_parser_count(a); i++) {
    const ie_chat_parsed *x = ie_chat_parser_at(a, i), *y = ie_chat_parser_at(b, i);
    if (x->end_id != y->end_id || x->message.text_size != y->message.text_size) abort();
    if (memcmp(x->message.text, y->message.text, x->message.text_size) != 0) abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const roles[] = {"assistant", NULL, "tool", "user"};
  static int32_t ids[1 << 15];
  if (size == 0 || size > sizeof ids / 2) return 0;
  const char *role = roles[data[0] & 3];
  const fuzz_chat *chat = &chats[(data[0] >> 2) % CHATS];
  size_t count = (size - 1) / 2;
  ie_error error;
  ie_chat_event event;
  ie_chat_parser *parser, *whole;
  if (ie_chat_parser_new(chat->format, chat->tokenizer, role, &parser, &error) != IE_OK) abort();
  message = -1;
  for (size_t i = 0; i < count; i++) {
    ids[i] = id_of(chat, data + 1 + 2 * i);
    if (ie_chat_parser_push(parser, ids[i], &event, &error) != IE_OK) abort();
    check_event(parser, &event);
  }
  if (ie_chat_parser_finish(parser, &event, &error) != IE_OK) abort();
  check_event(parser, &event);
  check_ranges(parser, count);
  if (ie_chat_parse(chat->format, chat->tokenizer, role, ids, count, &whole, &error) != IE_OK) abort();
  check_equal(parser, whole);
  ie_chat_parser_free(parser);
  ie_chat_parser_free(whole);
  return 0;
}
