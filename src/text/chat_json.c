#include "text/chat_json.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void write_string(ie_buf *out, const char *text, size_t size) {
  ie_buf_append_char(out, '"');
  for (size_t i = 0; i < size; i++) {
    unsigned char c = (unsigned char)text[i];
    switch (c) {
    case '"': ie_buf_append_str(out, "\\\""); break;
    case '\\': ie_buf_append_str(out, "\\\\"); break;
    case '\b': ie_buf_append_str(out, "\\b"); break;
    case '\f': ie_buf_append_str(out, "\\f"); break;
    case '\n': ie_buf_append_str(out, "\\n"); break;
    case '\r': ie_buf_append_str(out, "\\r"); break;
    case '\t': ie_buf_append_str(out, "\\t"); break;
    default:
      if (c < 0x20) {
        ie_buf_printf(out, "\\u%04x", c);
      } else {
        ie_buf_append_char(out, (char)c);
      }
    }
  }
  ie_buf_append_char(out, '"');
}

enum { DIGITS_MAX = 17 };

/* A decimal number: 0.d1d2...dn x 10^point. */
typedef struct decimal {
  char digits[DIGITS_MAX + 1];
  int count;
  int point;
} decimal;

/* digits x 10^(point - count) as a double. Built without a decimal point, whose character depends on the locale. */
static double decimal_value(const decimal *d) {
  char text[DIGITS_MAX + 16];
  snprintf(text, sizeof text, "%se%d", d->digits, d->point - d->count);
  return strtod(text, NULL);
}

/* x > 0 to `count` digits, rounded to nearest. */
static void decimal_round(double x, int count, decimal *d) {
  char text[DIGITS_MAX + 16];
  snprintf(text, sizeof text, "%.*e", count - 1, x);
  d->count = 0;
  const char *p = text;
  for (; *p != 'e'; p++)
    if (*p >= '0' && *p <= '9') d->digits[d->count++] = *p;
  d->digits[d->count] = '\0';
  d->point = (int)strtol(p + 1, NULL, 10) + 1;
}

/* Adds one to the last digit; false when that carries into a new digit. */
static bool decimal_next(decimal *d) {
  for (int i = d->count - 1; i >= 0; i--) {
    if (d->digits[i] != '9') {
      d->digits[i]++;
      return true;
    }
    d->digits[i] = '0';
  }
  return false;
}

/* The shortest digits that read back as x > 0. The number above the rounded one is tried too: below a power of
 * two doubles lie closer together, so that rounding to nearest can miss the shortest form. */
static void decimal_shortest(double x, decimal *d) {
  for (int count = 1; count <= DIGITS_MAX; count++) {
    decimal_round(x, count, d);
    if (decimal_value(d) == x) break;
    decimal next = *d;
    if (decimal_next(&next) && decimal_value(&next) == x) {
      *d = next;
      break;
    }
  }
  while (d->count > 1 && d->digits[d->count - 1] == '0') d->digits[--d->count] = '\0';
}

/* How a writer lays out what it writes. */
typedef struct json_style {
  ie_buf *out;
  bool python; /* json.dumps, else serde_json */
  int indent;  /* of a level; 0: all on one line */
} json_style;

/* A number as 1.5e21, which Python writes 1.5e+21, and with at least two digits. */
static void write_exponent(const json_style *style, const decimal *d) {
  ie_buf_append_char(style->out, d->digits[0]);
  if (d->count > 1) {
    ie_buf_append_char(style->out, '.');
    ie_buf_append_str(style->out, d->digits + 1);
  }
  ie_buf_printf(style->out, style->python ? "e%+03d" : "e%d", d->point - 1);
}

static void write_real(const json_style *style, double x) {
  ie_buf *out = style->out;
  int least = style->python ? -4 : -5; /* 0.0001 is the smallest that Python writes without an exponent */
  if (signbit(x)) ie_buf_append_char(out, '-');
  x = fabs(x);
  if (x == 0) {
    ie_buf_append_str(out, "0.0");
    return;
  }
  decimal d;
  decimal_shortest(x, &d);
  if (d.point >= d.count && d.point <= 16) { /* 1200 -> 1200.0 */
    ie_buf_append_str(out, d.digits);
    for (int i = d.count; i < d.point; i++) ie_buf_append_char(out, '0');
    ie_buf_append_str(out, ".0");
  } else if (d.point > 0 && d.point <= 16) {
    ie_buf_append(out, d.digits, (size_t)d.point);
    ie_buf_append_char(out, '.');
    ie_buf_append_str(out, d.digits + d.point);
  } else if (d.point > least && d.point <= 0) {
    ie_buf_append_str(out, "0.");
    for (int i = d.point; i < 0; i++) ie_buf_append_char(out, '0');
    ie_buf_append_str(out, d.digits);
  } else {
    write_exponent(style, &d);
  }
}

/* What stands before an item: a comma, and the line break or space of the style. */
static void write_gap(const json_style *style, bool first, int depth) {
  if (!first) ie_buf_append_char(style->out, ',');
  if (style->indent) {
    ie_buf_append_char(style->out, '\n');
    for (int i = 0; i < depth * style->indent; i++) ie_buf_append_char(style->out, ' ');
  } else if (!first && style->python) {
    ie_buf_append_char(style->out, ' ');
  }
}

static void write_close(const json_style *style, bool empty, int depth, char close) {
  if (!empty && style->indent) write_gap(style, /*first=*/true, depth);
  ie_buf_append_char(style->out, close);
}

static void write_value(const json_style *style, const json_t *value, int depth);

static void write_array(const json_style *style, const json_t *array, int depth) {
  size_t count = json_array_size(array);
  ie_buf_append_char(style->out, '[');
  for (size_t i = 0; i < count; i++) {
    write_gap(style, i == 0, depth + 1);
    write_value(style, json_array_get(array, i), depth + 1);
  }
  write_close(style, count == 0, depth, ']');
}

static void write_object(const json_style *style, const json_t *object, int depth) {
  bool first = true;
  json_t *o = (json_t *)(uintptr_t)object; /* jansson's iterators take no const; nothing is changed */
  ie_buf_append_char(style->out, '{');
  for (void *it = json_object_iter(o); it; it = json_object_iter_next(o, it)) {
    const char *key = json_object_iter_key(it);
    write_gap(style, first, depth + 1);
    first = false;
    write_string(style->out, key, strlen(key));
    ie_buf_append_str(style->out, style->python ? ": " : ":");
    write_value(style, json_object_iter_value(it), depth + 1);
  }
  write_close(style, first, depth, '}');
}

static void write_value(const json_style *style, const json_t *value, int depth) {
  ie_buf *out = style->out;
  switch (json_typeof(value)) {
  case JSON_OBJECT: write_object(style, value, depth); break;
  case JSON_ARRAY: write_array(style, value, depth); break;
  case JSON_STRING: write_string(out, json_string_value(value), json_string_length(value)); break;
  case JSON_INTEGER: ie_buf_printf(out, "%lld", (long long)json_integer_value(value)); break;
  case JSON_REAL: write_real(style, json_real_value(value)); break;
  case JSON_TRUE: ie_buf_append_str(out, "true"); break;
  case JSON_FALSE: ie_buf_append_str(out, "false"); break;
  case JSON_NULL: ie_buf_append_str(out, "null"); break;
  }
}

void chat_json_write(ie_buf *out, const json_t *value) {
  write_value(&(json_style){.out = out}, value, /*depth=*/0);
}

void chat_json_write_python(ie_buf *out, const json_t *value, int indent) {
  write_value(&(json_style){.out = out, .python = true, .indent = indent}, value, /*depth=*/0);
}
