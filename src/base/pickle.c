#include "base/pickle.h"

#include "base/buf.h"
#include "base/quote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A container, an object or a persistent reference. */
typedef struct pickle_node {
  ie_buf items;                               /* ie_pickle_value */
  ie_pickle_value callable, arguments, state; /* of an object */
} pickle_node;

struct ie_pickle {
  ie_buf nodes; /* pickle_node */
  ie_pickle_value root;
};

/* The machine while it runs. */
typedef struct machine {
  const uint8_t *p; /* (size) */
  size_t size, at;
  size_t op_at; /* where the opcode stands, for messages */
  const char *where;
  const ie_pickle_rules *rules;
  ie_pickle *pickle;
  ie_buf stack, memo; /* ie_pickle_value */
  size_t items;       /* in all nodes */
  ie_error *error;
} machine;

static ie_pickle_value *values(const ie_buf *buf) {
  return (ie_pickle_value *)(void *)buf->data;
}

static size_t value_count(const ie_buf *buf) {
  return buf->size / sizeof(ie_pickle_value);
}

static pickle_node *node_at(const ie_pickle *pickle, size_t i) {
  return (pickle_node *)(void *)pickle->nodes.data + i;
}

static ie_status machine_bad(const machine *m, const char *what) {
  return ie_error_set(m->error, IE_FORMAT, "%s: damaged pickle at byte %zu: %s", m->where, m->op_at, what);
}

static ie_status machine_append(const machine *m, ie_buf *list, const ie_pickle_value *value, size_t count) {
  if (!ie_buf_append(list, value, count * sizeof *value))
    return ie_error_set(m->error, IE_OUT_OF_MEMORY, "%s: out of memory", m->where);
  return IE_OK;
}

static ie_status machine_push(machine *m, ie_pickle_value value) {
  return machine_append(m, &m->stack, &value, 1);
}

static ie_status push_plain(machine *m, ie_pickle_type type, int64_t number) {
  return machine_push(m, (ie_pickle_value){.type = type, .number = number});
}

/* The value `depth` below the top (0 = top), or NULL when there is none or a mark lies above it. */
static ie_pickle_value *stack_peek(const machine *m, size_t depth) {
  size_t count = value_count(&m->stack);
  if (depth >= count) return NULL;
  for (size_t i = 0; i <= depth; i++)
    if (values(&m->stack)[count - 1 - i].type == IE_PICKLE_MARK) return NULL;
  return values(&m->stack) + (count - 1 - depth);
}

static void stack_drop(machine *m, size_t count) {
  m->stack.size -= count * sizeof(ie_pickle_value);
}

/* How many values lie above the topmost mark. */
static bool stack_mark(const machine *m, size_t *above) {
  size_t count = value_count(&m->stack);
  for (*above = 0; *above < count; ++*above)
    if (values(&m->stack)[count - 1 - *above].type == IE_PICKLE_MARK) return true;
  return false;
}

/* Reads n bytes as a little-endian number. */
static bool read_number(machine *m, size_t n, uint64_t *out) {
  if (m->size - m->at < n) return false;
  *out = 0;
  for (size_t i = 0; i < n; i++) *out |= (uint64_t)m->p[m->at + i] << (8 * i);
  m->at += n;
  return true;
}

/* ---- strings and numbers ---- */

/* A string with a length of n bytes before it. */
static ie_status op_string(machine *m, ie_pickle_type type, size_t n) {
  uint64_t size;
  if (!read_number(m, n, &size) || size > m->size - m->at || size > UINT32_MAX)
    return machine_bad(m, "a string is longer than the file");
  ie_pickle_value value = {.type = type, .size = (uint32_t)size, .data = (const char *)m->p + m->at};
  m->at += (size_t)size;
  return machine_push(m, value);
}

static ie_status op_int(machine *m, size_t n) {
  uint64_t number;
  if (!read_number(m, n, &number)) return machine_bad(m, "it is cut");
  return push_plain(m, IE_PICKLE_INT, n == 4 ? (int32_t)(uint32_t)number : (int64_t)number);
}

/* LONG1: a length, and a number of that many bytes in two's complement. */
static ie_status op_long(machine *m) {
  uint64_t n, number = 0;
  if (!read_number(m, 1, &n)) return machine_bad(m, "it is cut");
  if (n > 8) return machine_bad(m, "an integer of more than 64 bits");
  if (!read_number(m, (size_t)n, &number)) return machine_bad(m, "it is cut");
  if (n > 0 && n < 8 && number >> (8 * n - 1)) number |= UINT64_MAX << (8 * n);
  return push_plain(m, IE_PICKLE_INT, (int64_t)number);
}

static ie_status op_skip(machine *m, size_t n) {
  uint64_t ignored;
  return read_number(m, n, &ignored) ? IE_OK : machine_bad(m, "it is cut");
}

static ie_status op_float(machine *m) {
  ie_status status = op_skip(m, 8);
  return status == IE_OK ? push_plain(m, IE_PICKLE_FLOAT, 0) : status;
}

/* ---- containers ---- */

/* Pushes a new node that takes over the `count` values on top as its items, and drops `drop` values in all. */
static ie_status node_push(machine *m, ie_pickle_type type, size_t count, size_t drop) {
  size_t index = m->pickle->nodes.size / sizeof(pickle_node);
  pickle_node node = {0};
  if (index == IE_PICKLE_MAX_NODES || count > IE_PICKLE_MAX_ITEMS - m->items)
    return ie_error_set(m->error, IE_UNSUPPORTED,
                        "%s: pickle at byte %zu: more than %zu containers or %zu items", m->where, m->op_at,
                        IE_PICKLE_MAX_NODES, IE_PICKLE_MAX_ITEMS);
  const ie_pickle_value *top = count ? values(&m->stack) + (value_count(&m->stack) - count) : NULL;
  ie_status status = count ? machine_append(m, &node.items, top, count) : IE_OK;
  if (status == IE_OK && !ie_buf_append(&m->pickle->nodes, &node, sizeof node))
    status = ie_error_set(m->error, IE_OUT_OF_MEMORY, "%s: out of memory", m->where);
  if (status != IE_OK) {
    ie_buf_free(&node.items);
    return status;
  }
  m->items += count;
  stack_drop(m, drop);
  return machine_push(m, (ie_pickle_value){.type = type, .node = index});
}

static ie_status op_tuple(machine *m, size_t count) {
  if (count && !stack_peek(m, count - 1)) return machine_bad(m, "a tuple of values that are not there");
  return node_push(m, IE_PICKLE_TUPLE, count, count);
}

static ie_status op_tuple_to_mark(machine *m) {
  size_t count;
  if (!stack_mark(m, &count)) return machine_bad(m, "no mark");
  return node_push(m, IE_PICKLE_TUPLE, count, count + 1);
}

/* Appends the `count` values on top to the container that lies below `below` values. */
static ie_status items_add(machine *m, size_t count, size_t below, bool pairs) {
  const size_t all = value_count(&m->stack);
  const ie_pickle_value *to = below < all ? values(&m->stack) + (all - 1 - below) : NULL;
  bool fits =
      to && (pairs ? to->type == IE_PICKLE_DICT || to->type == IE_PICKLE_OBJECT : to->type == IE_PICKLE_LIST);
  if (!fits || (pairs && count % 2)) return machine_bad(m, "items without a container");
  if (count > IE_PICKLE_MAX_ITEMS - m->items)
    return ie_error_set(m->error, IE_UNSUPPORTED, "%s: pickle at byte %zu: more than %zu items", m->where,
                        m->op_at, IE_PICKLE_MAX_ITEMS);
  const ie_pickle_value *top = values(&m->stack) + (all - count);
  ie_status status = count ? machine_append(m, &node_at(m->pickle, to->node)->items, top, count) : IE_OK;
  m->items += count;
  stack_drop(m, below);
  return status;
}

static ie_status op_items(machine *m, size_t count, bool pairs) {
  return stack_peek(m, count) ? items_add(m, count, count, pairs)
                              : machine_bad(m, "items without a container");
}

static ie_status op_items_to_mark(machine *m, bool pairs) {
  size_t count;
  return stack_mark(m, &count) ? items_add(m, count, count + 1, pairs) : machine_bad(m, "no mark");
}

/* ---- names, objects, references ---- */

static ie_status global_push(machine *m, const char *module, size_t module_size, const char *name,
                             size_t name_size) {
  for (size_t i = 0; m->rules->globals[i]; i++) {
    const char *allowed = m->rules->globals[i];
    if (strlen(allowed) == module_size + 1 + name_size && memcmp(allowed, module, module_size) == 0 &&
        allowed[module_size] == '.' && memcmp(allowed + module_size + 1, name, name_size) == 0)
      return push_plain(m, IE_PICKLE_GLOBAL, (int64_t)i);
  }
  char full[256];
  snprintf(full, sizeof full, "%.*s.%.*s", module_size > 100 ? 100 : (int)module_size, module,
           name_size > 100 ? 100 : (int)name_size, name);
  return ie_error_set(m->error, IE_UNSUPPORTED, "%s: pickle at byte %zu: %s is not allowed in %s", m->where,
                      m->op_at, ie_quote(full).text, m->rules->what);
}

/* GLOBAL: two lines. */
static ie_status op_global(machine *m) {
  const char *line[2];
  size_t size[2];
  for (int i = 0; i < 2; i++) {
    line[i] = (const char *)m->p + m->at;
    const char *end = m->at < m->size ? memchr(line[i], '\n', m->size - m->at) : NULL;
    if (!end) return machine_bad(m, "it is cut");
    size[i] = (size_t)(end - line[i]);
    m->at += size[i] + 1;
  }
  return global_push(m, line[0], size[0], line[1], size[1]);
}

static ie_status op_stack_global(machine *m) {
  const ie_pickle_value *name = stack_peek(m, 0), *module = stack_peek(m, 1);
  if (!name || !module || name->type != IE_PICKLE_TEXT || module->type != IE_PICKLE_TEXT)
    return machine_bad(m, "a class without a name");
  const ie_pickle_value a = *module, b = *name;
  stack_drop(m, 2);
  return global_push(m, a.data, a.size, b.data, b.size);
}

/* REDUCE and NEWOBJ: what would be a call becomes its description. */
static ie_status op_object(machine *m) {
  const ie_pickle_value *arguments = stack_peek(m, 0), *callable = stack_peek(m, 1);
  if (!arguments || !callable || arguments->type != IE_PICKLE_TUPLE || callable->type != IE_PICKLE_GLOBAL)
    return machine_bad(m, "an object of no class");
  const ie_pickle_value a = *arguments, c = *callable;
  ie_status status = node_push(m, IE_PICKLE_OBJECT, 0, 2);
  if (status != IE_OK) return status;
  pickle_node *node = node_at(m->pickle, stack_peek(m, 0)->node);
  node->arguments = a;
  node->callable = c;
  return IE_OK;
}

static ie_status op_build(machine *m) {
  const ie_pickle_value *state = stack_peek(m, 0), *object = stack_peek(m, 1);
  if (!state || !object || object->type != IE_PICKLE_OBJECT) return machine_bad(m, "a state of nothing");
  node_at(m->pickle, object->node)->state = *state;
  stack_drop(m, 1);
  return IE_OK;
}

static ie_status op_persistent(machine *m) {
  const ie_pickle_value *id = stack_peek(m, 0);
  if (!id) return machine_bad(m, "a reference without a name");
  if (!m->rules->persistent)
    return ie_error_set(m->error, IE_UNSUPPORTED,
                        "%s: pickle opcode BINPERSID (0x51) at byte %zu is not allowed in %s", m->where,
                        m->op_at, m->rules->what);
  const ie_pickle_value kept = *id;
  ie_status status = node_push(m, IE_PICKLE_PERSISTENT, 0, 1);
  if (status == IE_OK) node_at(m->pickle, stack_peek(m, 0)->node)->arguments = kept;
  return status;
}

static ie_status op_get(machine *m, size_t n) {
  uint64_t index;
  if (!read_number(m, n, &index) || index >= value_count(&m->memo) ||
      values(&m->memo)[index].type == IE_PICKLE_NOTHING)
    return machine_bad(m, "a reference to nothing");
  return machine_push(m, values(&m->memo)[index]);
}

static ie_status memo_put(machine *m, uint64_t index) {
  const ie_pickle_value nothing = {0}, *top = stack_peek(m, 0);
  if (!top) return machine_bad(m, "nothing to remember");
  /* No writer leaves gaps of more than it has written, so that memory follows the size of the file. */
  if (index >= m->size || index >= IE_PICKLE_MAX_ITEMS)
    return machine_bad(m, "a place in the memo beyond the size of the pickle");
  while (value_count(&m->memo) <= index) {
    ie_status status = machine_append(m, &m->memo, &nothing, 1);
    if (status != IE_OK) return status;
  }
  values(&m->memo)[index] = *top;
  return IE_OK;
}

static ie_status op_put(machine *m, size_t n) {
  uint64_t index;
  return read_number(m, n, &index) ? memo_put(m, index) : machine_bad(m, "it is cut");
}

/* ---- the machine ---- */

/* The name of an opcode that a pickle may hold and this machine refuses, or "?". */
static const char *opcode_name(uint8_t op) {
  static const struct {
    uint8_t op;
    const char *name;
  } names[] = {{'0', "POP"},          {'1', "POP_MARK"},
               {'2', "DUP"},          {'F', "FLOAT"},
               {'I', "INT"},          {'L', "LONG"},
               {'P', "PERSID"},       {'S', "STRING"},
               {'T', "BINSTRING"},    {'U', "SHORT_BINSTRING"},
               {'V', "UNICODE"},      {'d', "DICT"},
               {'g', "GET"},          {'i', "INST"},
               {'l', "LIST"},         {'o', "OBJ"},
               {'p', "PUT"},          {0x82, "EXT1"},
               {0x83, "EXT2"},        {0x84, "EXT4"},
               {0x8B, "LONG4"},       {0x8F, "EMPTY_SET"},
               {0x90, "ADDITEMS"},    {0x91, "FROZENSET"},
               {0x92, "NEWOBJ_EX"},   {0x96, "BYTEARRAY8"},
               {0x97, "NEXT_BUFFER"}, {0x98, "READONLY_BUFFER"}};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (names[i].op == op) return names[i].name;
  return "?";
}

static ie_status machine_step(machine *m, bool *done) {
  m->op_at = m->at;
  uint8_t op = m->p[m->at++];
  switch (op) {
  case 0x80: return op_skip(m, 1);                       /* PROTO */
  case 0x95: return op_skip(m, 8);                       /* FRAME: a hint for readers of streams */
  case 'N': return push_plain(m, IE_PICKLE_NONE, 0);     /* NONE */
  case 0x88: return push_plain(m, IE_PICKLE_BOOL, 1);    /* NEWTRUE */
  case 0x89: return push_plain(m, IE_PICKLE_BOOL, 0);    /* NEWFALSE */
  case 'K': return op_int(m, 1);                         /* BININT1 */
  case 'M': return op_int(m, 2);                         /* BININT2 */
  case 'J': return op_int(m, 4);                         /* BININT */
  case 0x8A: return op_long(m);                          /* LONG1 */
  case 'G': return op_float(m);                          /* BINFLOAT */
  case 0x8C: return op_string(m, IE_PICKLE_TEXT, 1);     /* SHORT_BINUNICODE */
  case 'X': return op_string(m, IE_PICKLE_TEXT, 4);      /* BINUNICODE */
  case 0x8D: return op_string(m, IE_PICKLE_TEXT, 8);     /* BINUNICODE8 */
  case 'C': return op_string(m, IE_PICKLE_BYTES, 1);     /* SHORT_BINBYTES */
  case 'B': return op_string(m, IE_PICKLE_BYTES, 4);     /* BINBYTES */
  case 0x8E: return op_string(m, IE_PICKLE_BYTES, 8);    /* BINBYTES8 */
  case '(': return push_plain(m, IE_PICKLE_MARK, 0);     /* MARK */
  case ')': return op_tuple(m, 0);                       /* EMPTY_TUPLE */
  case 0x85: return op_tuple(m, 1);                      /* TUPLE1 */
  case 0x86: return op_tuple(m, 2);                      /* TUPLE2 */
  case 0x87: return op_tuple(m, 3);                      /* TUPLE3 */
  case 't': return op_tuple_to_mark(m);                  /* TUPLE */
  case ']': return node_push(m, IE_PICKLE_LIST, 0, 0);   /* EMPTY_LIST */
  case 'a': return op_items(m, 1, /*pairs=*/false);      /* APPEND */
  case 'e': return op_items_to_mark(m, /*pairs=*/false); /* APPENDS */
  case '}': return node_push(m, IE_PICKLE_DICT, 0, 0);   /* EMPTY_DICT */
  case 's': return op_items(m, 2, /*pairs=*/true);       /* SETITEM */
  case 'u': return op_items_to_mark(m, /*pairs=*/true);  /* SETITEMS */
  case 'c': return op_global(m);                         /* GLOBAL */
  case 0x93: return op_stack_global(m);                  /* STACK_GLOBAL */
  case 'R': return op_object(m);                         /* REDUCE */
  case 0x81: return op_object(m);                        /* NEWOBJ */
  case 'b': return op_build(m);                          /* BUILD */
  case 'Q': return op_persistent(m);                     /* BINPERSID */
  case 'h': return op_get(m, 1);                         /* BINGET */
  case 'j': return op_get(m, 4);                         /* LONG_BINGET */
  case 'q': return op_put(m, 1);                         /* BINPUT */
  case 'r': return op_put(m, 4);                         /* LONG_BINPUT */
  case 0x94: return memo_put(m, value_count(&m->memo));  /* MEMOIZE */
  case '.': *done = true; return IE_OK;                  /* STOP */
  default:
    return ie_error_set(m->error, IE_UNSUPPORTED,
                        "%s: pickle opcode %s (0x%02X) at byte %zu is not allowed in %s", m->where,
                        opcode_name(op), op, m->op_at, m->rules->what);
  }
}

static ie_status machine_run(machine *m) {
  bool done = false;
  if (m->size > IE_PICKLE_MAX_BYTES)
    return ie_error_set(m->error, IE_UNSUPPORTED, "%s: a pickle of %zu bytes, expected at most %zu", m->where,
                        m->size, IE_PICKLE_MAX_BYTES);
  while (!done) {
    m->op_at = m->at;
    if (m->at >= m->size) return machine_bad(m, "it is cut");
    ie_status status = machine_step(m, &done);
    if (status != IE_OK) return status;
    if (value_count(&m->stack) > IE_PICKLE_MAX_ITEMS) return machine_bad(m, "the stack is too high");
  }
  const ie_pickle_value *top = stack_peek(m, 0);
  if (!top || value_count(&m->stack) != 1) return machine_bad(m, "it does not hold one value");
  m->pickle->root = *top;
  return IE_OK;
}

ie_status ie_pickle_read(const void *bytes, size_t size, const char *where, const ie_pickle_rules *rules,
                         ie_pickle **out, ie_error *error) {
  *out = NULL;
  ie_pickle *pickle = calloc(1, sizeof *pickle);
  if (!pickle) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", where);
  machine m = {.p = bytes, .size = size, .where = where, .rules = rules, .pickle = pickle, .error = error};
  ie_status status = machine_run(&m);
  ie_buf_free(&m.stack);
  ie_buf_free(&m.memo);
  if (status != IE_OK) {
    ie_pickle_free(pickle);
    return status;
  }
  *out = pickle;
  return IE_OK;
}

void ie_pickle_free(ie_pickle *pickle) {
  if (!pickle) return;
  size_t count = pickle->nodes.size / sizeof(pickle_node);
  for (size_t i = 0; i < count; i++) ie_buf_free(&node_at(pickle, i)->items);
  ie_buf_free(&pickle->nodes);
  free(pickle);
}

/* ---- looking at the result ---- */

static const pickle_node *node_of(const ie_pickle *pickle, ie_pickle_value value) {
  switch (value.type) {
  case IE_PICKLE_TUPLE:
  case IE_PICKLE_LIST:
  case IE_PICKLE_DICT:
  case IE_PICKLE_OBJECT:
  case IE_PICKLE_PERSISTENT: return node_at(pickle, value.node);
  default: return NULL;
  }
}

ie_pickle_value ie_pickle_root(const ie_pickle *pickle) {
  return pickle->root;
}

size_t ie_pickle_count(const ie_pickle *pickle, ie_pickle_value value) {
  const pickle_node *node = node_of(pickle, value);
  return node ? value_count(&node->items) : 0;
}

ie_pickle_value ie_pickle_item(const ie_pickle *pickle, ie_pickle_value value, size_t i) {
  const pickle_node *node = node_of(pickle, value);
  return node && i < value_count(&node->items) ? values(&node->items)[i] : (ie_pickle_value){0};
}

ie_pickle_value ie_pickle_get(const ie_pickle *pickle, ie_pickle_value value, const char *key) {
  ie_pickle_value found = {0};
  if (value.type != IE_PICKLE_DICT && value.type != IE_PICKLE_OBJECT) return found;
  for (size_t i = 0; i + 1 < ie_pickle_count(pickle, value); i += 2)
    if (ie_pickle_text_is(ie_pickle_item(pickle, value, i), key))
      found = ie_pickle_item(pickle, value, i + 1);
  return found;
}

ie_pickle_value ie_pickle_callable(const ie_pickle *pickle, ie_pickle_value object) {
  const pickle_node *node = node_of(pickle, object);
  return node ? node->callable : (ie_pickle_value){0};
}

ie_pickle_value ie_pickle_arguments(const ie_pickle *pickle, ie_pickle_value object) {
  const pickle_node *node = node_of(pickle, object);
  return node ? node->arguments : (ie_pickle_value){0};
}

ie_pickle_value ie_pickle_state(const ie_pickle *pickle, ie_pickle_value object) {
  const pickle_node *node = node_of(pickle, object);
  return node ? node->state : (ie_pickle_value){0};
}

bool ie_pickle_text_is(ie_pickle_value value, const char *text) {
  return value.type == IE_PICKLE_TEXT && value.size == strlen(text) &&
         memcmp(value.data, text, value.size) == 0;
}
