/* nanochat's tokenizer.pkl: the pickle of a tiktoken.core.Encoding. The reader is a stack machine that knows the
 * opcodes such a file uses and no class but that one; nothing is ever called. */
#include "text/tokenizer.h"

#include <stdlib.h>

typedef enum pickle_type { P_MARK, P_TEXT, P_BYTES, P_INT, P_TUPLE, P_CLASS, P_OBJECT, P_DICT } pickle_type;

typedef struct pickle_value {
  pickle_type type;
  uint32_t size;    /* P_TEXT, P_BYTES */
  const char *data; /* P_TEXT, P_BYTES: in the file */
  int64_t number;   /* P_INT; P_DICT and P_OBJECT: index in dicts, -1 for an object without state */
} pickle_value;

enum { PICKLE_DICTS = 16 };

typedef struct pickle {
  const uint8_t *p; /* (size) */
  size_t size, at;
  const char *where;
  ie_buf stack, memo;         /* pickle_value */
  ie_buf dicts[PICKLE_DICTS]; /* pickle_value: key, value, key, ... */
  size_t dict_count;
  ie_error *error;
} pickle;

static ie_status pickle_bad(const pickle *s, const char *what) {
  return ie_error_set(s->error, IE_FORMAT, "%s: damaged pickle at byte %zu: %s", s->where, s->at, what);
}

static ie_status pickle_append(pickle *s, ie_buf *list, pickle_value value) {
  if (!ie_buf_append(list, &value, sizeof value))
    return ie_error_set(s->error, IE_OUT_OF_MEMORY, "%s: out of memory", s->where);
  return IE_OK;
}

static ie_status pickle_push(pickle *s, pickle_value value) {
  return pickle_append(s, &s->stack, value);
}

static size_t stack_count(const pickle *s) {
  return s->stack.size / sizeof(pickle_value);
}

/* The value `depth` below the top (0 = top), or NULL. */
static pickle_value *stack_peek(const pickle *s, size_t depth) {
  size_t count = stack_count(s);
  return depth < count ? (pickle_value *)(void *)s->stack.data + (count - 1 - depth) : NULL;
}

static void stack_drop(pickle *s, size_t count) {
  s->stack.size -= count * sizeof(pickle_value);
}

/* Reads n bytes as a little-endian number. */
static bool pickle_number(pickle *s, size_t n, uint64_t *out) {
  if (s->size - s->at < n) return false;
  *out = 0;
  for (size_t i = 0; i < n; i++) *out |= (uint64_t)s->p[s->at + i] << (8 * i);
  s->at += n;
  return true;
}

/* A string with a length of n bytes before it. */
static ie_status pickle_string(pickle *s, pickle_type type, size_t n) {
  uint64_t size;
  if (!pickle_number(s, n, &size) || size > s->size - s->at || size > UINT32_MAX)
    return pickle_bad(s, "a string is longer than the file");
  pickle_value value = {.type = type, .size = (uint32_t)size, .data = (const char *)s->p + s->at};
  s->at += (size_t)size;
  return pickle_push(s, value);
}

static ie_status pickle_int(pickle *s, size_t n) {
  uint64_t number;
  if (!pickle_number(s, n, &number)) return pickle_bad(s, "cut");
  pickle_value value = {.type = P_INT, .number = n == 4 ? (int32_t)(uint32_t)number : (int64_t)number};
  return pickle_push(s, value);
}

static bool text_is(const pickle_value *value, const char *text) {
  return value && value->type == P_TEXT && value->size == strlen(text) &&
         memcmp(value->data, text, value->size) == 0;
}

static ie_status pickle_class(pickle *s) {
  const pickle_value *name = stack_peek(s, 0), *module = stack_peek(s, 1);
  if (!name || !module || name->type != P_TEXT || module->type != P_TEXT)
    return pickle_bad(s, "a class without name");
  if (!text_is(module, "tiktoken.core") || !text_is(name, "Encoding"))
    return ie_error_set(s->error, IE_UNSUPPORTED,
                        "%s: the pickle holds a %.*s.%.*s, expected tiktoken.core.Encoding", s->where,
                        module->size > 100 ? 100 : (int)module->size, module->data,
                        name->size > 100 ? 100 : (int)name->size, name->data);
  stack_drop(s, 2);
  return pickle_push(s, (pickle_value){.type = P_CLASS});
}

static ie_status pickle_new_object(pickle *s) {
  const pickle_value *args = stack_peek(s, 0), *class = stack_peek(s, 1);
  if (!args || !class || args->type != P_TUPLE || class->type != P_CLASS)
    return pickle_bad(s, "an object of no class");
  stack_drop(s, 2);
  return pickle_push(s, (pickle_value){.type = P_OBJECT, .number = -1});
}

static ie_status pickle_new_dict(pickle *s) {
  if (s->dict_count == PICKLE_DICTS) return pickle_bad(s, "too many dictionaries");
  return pickle_push(s, (pickle_value){.type = P_DICT, .number = (int64_t)s->dict_count++});
}

/* Moves the `count` values on top (keys and values in turn) into the dictionary below `below` values. */
static ie_status pickle_set_items(pickle *s, size_t count, size_t below) {
  const pickle_value *dict = stack_peek(s, below);
  if (!dict || dict->type != P_DICT || count % 2) return pickle_bad(s, "items without a dictionary");
  if (count && !ie_buf_append(&s->dicts[dict->number], stack_peek(s, count - 1), count * sizeof *dict))
    return ie_error_set(s->error, IE_OUT_OF_MEMORY, "%s: out of memory", s->where);
  stack_drop(s, below);
  return IE_OK;
}

static ie_status pickle_set_items_to_mark(pickle *s) {
  size_t count = 0;
  const pickle_value *value;
  while ((value = stack_peek(s, count)) && value->type != P_MARK) count++;
  return value ? pickle_set_items(s, count, count + 1) : pickle_bad(s, "no mark");
}

static ie_status pickle_build(pickle *s) {
  const pickle_value *state = stack_peek(s, 0);
  pickle_value *object = stack_peek(s, 1);
  if (!state || !object || state->type != P_DICT || object->type != P_OBJECT)
    return pickle_bad(s, "a state of nothing");
  object->number = state->number;
  stack_drop(s, 1);
  return IE_OK;
}

static ie_status pickle_get(pickle *s, size_t n) {
  uint64_t index;
  if (!pickle_number(s, n, &index) || index >= s->memo.size / sizeof(pickle_value))
    return pickle_bad(s, "a reference to nothing");
  return pickle_push(s, ((const pickle_value *)(const void *)s->memo.data)[index]);
}

static ie_status pickle_memoize(pickle *s) {
  const pickle_value *top = stack_peek(s, 0);
  return top ? pickle_append(s, &s->memo, *top) : pickle_bad(s, "nothing to remember");
}

static ie_status pickle_skip(pickle *s, size_t n) {
  uint64_t ignored;
  return pickle_number(s, n, &ignored) ? IE_OK : pickle_bad(s, "cut");
}

/* One opcode; *done after STOP. Opcode values: CPython's pickletools. */
static ie_status pickle_step(pickle *s, bool *done) {
  uint8_t op = s->p[s->at++];
  switch (op) {
  case 0x80: return pickle_skip(s, 1);                              /* PROTO */
  case 0x95: return pickle_skip(s, 8);                              /* FRAME: a hint for readers of streams */
  case 0x8C: return pickle_string(s, P_TEXT, 1);                    /* SHORT_BINUNICODE */
  case 'X': return pickle_string(s, P_TEXT, 4);                     /* BINUNICODE */
  case 0x8D: return pickle_string(s, P_TEXT, 8);                    /* BINUNICODE8 */
  case 'C': return pickle_string(s, P_BYTES, 1);                    /* SHORT_BINBYTES */
  case 'B': return pickle_string(s, P_BYTES, 4);                    /* BINBYTES */
  case 0x8E: return pickle_string(s, P_BYTES, 8);                   /* BINBYTES8 */
  case 'K': return pickle_int(s, 1);                                /* BININT1 */
  case 'M': return pickle_int(s, 2);                                /* BININT2 */
  case 'J': return pickle_int(s, 4);                                /* BININT */
  case 0x94: return pickle_memoize(s);                              /* MEMOIZE */
  case 'h': return pickle_get(s, 1);                                /* BINGET */
  case 'j': return pickle_get(s, 4);                                /* LONG_BINGET */
  case 0x93: return pickle_class(s);                                /* STACK_GLOBAL */
  case ')': return pickle_push(s, (pickle_value){.type = P_TUPLE}); /* EMPTY_TUPLE */
  case 0x81: return pickle_new_object(s);                           /* NEWOBJ */
  case '}': return pickle_new_dict(s);                              /* EMPTY_DICT */
  case '(': return pickle_push(s, (pickle_value){.type = P_MARK});  /* MARK */
  case 's': return pickle_set_items(s, 2, 2);                       /* SETITEM */
  case 'u': return pickle_set_items_to_mark(s);                     /* SETITEMS */
  case 'b': return pickle_build(s);                                 /* BUILD */
  case '.': *done = true; return IE_OK;                             /* STOP */
  default:
    return ie_error_set(s->error, IE_UNSUPPORTED,
                        "%s: pickle opcode 0x%02X at byte %zu is not allowed in a tokenizer", s->where, op,
                        s->at - 1);
  }
}

/* The value under a key of the object's state, or NULL. The last of equal keys counts. */
static const pickle_value *state_get(const pickle *s, const pickle_value *object, const char *key) {
  const ie_buf *dict = &s->dicts[object->number];
  const pickle_value *items = (const pickle_value *)(const void *)dict->data, *found = NULL;
  for (size_t i = 0; i + 1 < dict->size / sizeof *items; i += 2)
    if (text_is(&items[i], key)) found = &items[i + 1];
  return found;
}

static ie_status pickle_tokens(const pickle *s, const pickle_value *dict, bool special, ie_builder *b) {
  const ie_buf *list = &s->dicts[dict->number];
  const pickle_value *items = (const pickle_value *)(const void *)list->data;
  for (size_t i = 0; i + 1 < list->size / sizeof *items; i += 2) {
    const pickle_value *key = &items[i], *id = &items[i + 1];
    if (key->type != (special ? P_TEXT : P_BYTES) || id->type != P_INT || key->size == 0)
      return ie_error_set(s->error, IE_FORMAT, "%s: entry %zu of %s is not a token and its id", s->where,
                          i / 2, special ? "special_tokens" : "mergeable_ranks");
    ie_status status;
    if (!special)
      status = ie_builder_token_add(b, id->number, key->data, key->size, /*lookup=*/true, s->error);
    else if (id->number >= 0 && (size_t)id->number < b->ids && b->tokens[id->number].flags)
      status =
          ie_error_set(s->error, IE_FORMAT, "%s: special token %.*s has the id %lld of another token",
                       s->where, key->size > 100 ? 100 : (int)key->size, key->data, (long long)id->number);
    else
      status = ie_builder_added_add(b, id->number, key->data, key->size, IE_ADDED_SPECIAL, s->error);
    if (status != IE_OK) return status;
  }
  return IE_OK;
}

static ie_status pickle_build_tokenizer(const pickle *s, ie_builder *b) {
  const pickle_value *object = stack_peek(s, 0);
  if (stack_count(s) != 1 || object->type != P_OBJECT || object->number < 0)
    return pickle_bad(s, "it does not hold one tiktoken.core.Encoding");
  const pickle_value *pattern = state_get(s, object, "pat_str"),
                     *ranks = state_get(s, object, "mergeable_ranks");
  const pickle_value *special = state_get(s, object, "special_tokens");
  if (!pattern || pattern->type != P_TEXT || !ranks || ranks->type != P_DICT || !special ||
      special->type != P_DICT)
    return pickle_bad(s, "pat_str, mergeable_ranks or special_tokens is missing");
  ie_status status = pickle_tokens(s, ranks, false, b);
  if (status == IE_OK) status = ie_tokenizer_finish_ranks(b, s->error);
  ie_image_stage stage = {.kind = IE_STAGE_REGEX, .behavior = IE_SPLIT_ISOLATED, .rust = true};
  if (status == IE_OK) status = ie_builder_stage_add(b, stage, pattern->data, pattern->size, s->error);
  return status == IE_OK ? pickle_tokens(s, special, true, b) : status;
}

ie_status ie_tokenizer_read_pickle(const char *where, const void *data, size_t size, void **bytes,
                                   size_t *image_size, ie_error *error) {
  *bytes = NULL;
  pickle s = {.p = data, .size = size, .where = where, .error = error};
  ie_builder builder;
  ie_builder_init(&builder, where);
  builder.header.kind = IE_SOURCE_PICKLE;
  ie_status status = IE_OK;
  bool done = false;
  while (status == IE_OK && !done) status = s.at < s.size ? pickle_step(&s, &done) : pickle_bad(&s, "cut");
  if (status == IE_OK) status = pickle_build_tokenizer(&s, &builder);
  if (status == IE_OK) status = ie_builder_finish(&builder, bytes, image_size, error);
  ie_builder_free(&builder);
  ie_buf_free(&s.stack);
  ie_buf_free(&s.memo);
  for (size_t i = 0; i < PICKLE_DICTS; i++) ie_buf_free(&s.dicts[i]);
  return status;
}
