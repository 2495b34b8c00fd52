/* Python's pickles, read as data: a stack machine over a list of allowed opcodes. Nothing is ever called or imported.
 *
 * The result is a graph of values. What a pickle would build by calling a class stays a description of that call:
 * an object with the class's name, its arguments, the state that it would be given and the items that it would hold.
 * The caller lists the names that may occur; any other name, and any opcode that is not needed for dictionaries,
 * lists, tuples, numbers, strings and such objects, is refused by name and offset. Protocols 2 to 5, binary opcodes:
 * what pickle.dump and torch.save write. Opcodes as in CPython's Lib/pickletools.py.
 *
 * Memory is bounded: a pickle is at most IE_PICKLE_MAX_BYTES long, and holds at most IE_PICKLE_MAX_NODES containers
 * and objects and IE_PICKLE_MAX_ITEMS items. A value may hold itself, and one may stand in many places: readers walk
 * to a fixed depth, never over the whole graph.
 *
 * Owner: ie_pickle_free; strings point into the bytes that were read, which must outlive the pickle.
 * Thread safety: read-only once it is read. */
#ifndef CLOCHER_BASE_PICKLE_H
#define CLOCHER_BASE_PICKLE_H

#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IE_PICKLE_MAX_BYTES ((size_t)256 << 20)
#define IE_PICKLE_MAX_NODES ((size_t)1 << 20)
#define IE_PICKLE_MAX_ITEMS ((size_t)1 << 23)

typedef enum ie_pickle_type {
  IE_PICKLE_NOTHING, /* there is no such value */
  IE_PICKLE_NONE,
  IE_PICKLE_BOOL,
  IE_PICKLE_INT,
  IE_PICKLE_FLOAT, /* its value is not kept */
  IE_PICKLE_TEXT,
  IE_PICKLE_BYTES,
  IE_PICKLE_TUPLE,
  IE_PICKLE_LIST,
  IE_PICKLE_DICT,
  IE_PICKLE_GLOBAL,     /* a class or function that is named */
  IE_PICKLE_OBJECT,     /* one that is called with arguments */
  IE_PICKLE_PERSISTENT, /* a reference to something outside the pickle */
  IE_PICKLE_MARK        /* inside the machine only */
} ie_pickle_type;

typedef struct ie_pickle_value {
  ie_pickle_type type;
  uint32_t size; /* TEXT, BYTES */
  union {
    const char *data; /* TEXT, BYTES: (size) bytes, no NUL behind them */
    int64_t number;   /* BOOL, INT; GLOBAL: index in ie_pickle_rules.globals */
    size_t node;      /* TUPLE, LIST, DICT, OBJECT, PERSISTENT */
  };
} ie_pickle_value;

typedef struct ie_pickle_rules {
  const char *const *globals; /* "module.name" of each that may occur, NULL at the end; outlives the pickle */
  const char *what;           /* "a tokenizer", for messages */
  bool persistent;            /* references to the outside may occur */
} ie_pickle_rules;

typedef struct ie_pickle ie_pickle;

/* where names the bytes in messages. IE_FORMAT for a damaged pickle, IE_UNSUPPORTED for what is not allowed. */
ie_status ie_pickle_read(const void *bytes, size_t size, const char *where, const ie_pickle_rules *rules,
                         ie_pickle **out, ie_error *error);
void ie_pickle_free(ie_pickle *pickle);

/* The value that the pickle holds. */
ie_pickle_value ie_pickle_root(const ie_pickle *pickle);
/* Items of a tuple, a list, or a dictionary (keys and values in turn); of an object, the items that were set in it.
 * 0 for any other value. */
size_t ie_pickle_count(const ie_pickle *pickle, ie_pickle_value value);
ie_pickle_value ie_pickle_item(const ie_pickle *pickle, ie_pickle_value value, size_t i);
/* What stands under a key of a dictionary or of an object's items; the last of equal keys counts. */
ie_pickle_value ie_pickle_get(const ie_pickle *pickle, ie_pickle_value value, const char *key);
/* Of an object: what is called, the tuple of arguments, the state given to it (NOTHING when none is). Of a persistent
 * reference: arguments is the value that identifies it. */
ie_pickle_value ie_pickle_callable(const ie_pickle *pickle, ie_pickle_value object);
ie_pickle_value ie_pickle_arguments(const ie_pickle *pickle, ie_pickle_value object);
ie_pickle_value ie_pickle_state(const ie_pickle *pickle, ie_pickle_value object);

bool ie_pickle_text_is(ie_pickle_value value, const char *text);

#endif
