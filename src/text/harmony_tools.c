/* Tool declarations: a JSON schema in the TypeScript form that gpt-oss was trained on. The form is defined by what
 * the library writes, its oddities included: a description above a nested object stands twice, the brace after
 * it is not indented, and a default that is one of an enum's strings has no quotes. */
#include "base/json.h"
#include "base/quote.h"
#include "text/chat_json.h"
#include "text/harmony.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Indentation grows with depth, so unbounded nesting would make the output quadratic in the request. */
enum { SCHEMA_DEPTH_MAX = 200 };

typedef struct schema_writer {
  ie_buf *out;
  int depth;
  bool too_deep;
} schema_writer;

static void put_indent(ie_buf *out, size_t indent) {
  for (size_t i = 0; i < indent; i++) ie_buf_append_char(out, ' ');
}

static void put_json_text(ie_buf *out, const json_t *string) {
  ie_buf_append(out, json_string_value(string), json_string_length(string));
}

/* "// text\n" at an indentation. */
static void put_comment(ie_buf *out, size_t indent, const json_t *string) {
  put_indent(out, indent);
  ie_buf_append_str(out, "// ");
  put_json_text(out, string);
  ie_buf_append_char(out, '\n');
}

static const json_t *get_string(const json_t *schema, const char *key) {
  const json_t *value = json_object_get(schema, key);
  return json_is_string(value) ? value : NULL;
}

static const json_t *get_array(const json_t *schema, const char *key) {
  const json_t *value = json_object_get(schema, key);
  return json_is_array(value) ? value : NULL;
}

static bool is_enum(const json_t *schema) {
  return json_array_size(get_array(schema, "enum")) > 0;
}

static bool same_string(const json_t *a, const json_t *b) {
  return a && b && json_equal(a, b);
}

static void put_quoted(ie_buf *out, const json_t *string) {
  ie_buf_append_char(out, '"');
  put_json_text(out, string);
  ie_buf_append_char(out, '"');
}

/* "default: VALUE". A string that is no choice of an enum stands in quotes as it is; one of an enum is bare,
 * except in a union that is the whole type (bare_enum false), where it is JSON. */
static void put_default(ie_buf *out, const json_t *schema, const json_t *value, bool bare_enum) {
  ie_buf_append_str(out, "default: ");
  if (json_is_string(value) && !is_enum(schema)) {
    put_quoted(out, value);
  } else if (json_is_string(value) && bare_enum) {
    put_json_text(out, value);
  } else {
    chat_json_write(out, value);
  }
}

/* " // DESCRIPTION default: VALUE" after a member of a union; either may be NULL. */
static void put_trailing(ie_buf *out, const json_t *variant, const json_t *description, bool bare_enum) {
  const json_t *value = json_object_get(variant, "default");
  if (!description && !value) return;
  ie_buf_append_str(out, " // ");
  if (description) put_json_text(out, description);
  if (description && value) ie_buf_append_char(out, ' ');
  if (value) put_default(out, variant, value, bare_enum);
}

static void put_type(schema_writer *w, const json_t *schema, size_t indent);

/* The type, and " | null" where the schema is nullable and the type does not say so. */
static void put_nullable_type(schema_writer *w, const json_t *schema, size_t indent) {
  size_t start = w->out->size;
  put_type(w, schema, indent);
  if (!json_is_true(json_object_get(schema, "nullable")) || w->out->failed) return;
  if (w->out->size > start && memmem(w->out->data + start, w->out->size - start, "null", 4)) return;
  ie_buf_append_str(w->out, " | null");
}

/* A union that is the whole type: each member on a line of its own, after a line break. */
static void put_union(schema_writer *w, const json_t *variants, size_t indent) {
  for (size_t i = 0; i < json_array_size(variants); i++) {
    const json_t *variant = json_array_get(variants, i);
    ie_buf_append_char(w->out, '\n');
    put_indent(w->out, indent);
    ie_buf_append_str(w->out, " | ");
    put_nullable_type(w, variant, indent + 3);
    put_trailing(w->out, variant, get_string(variant, "description"), /*bare_enum=*/false);
  }
}

static bool is_required(const json_t *schema, const char *key) {
  const json_t *required = get_array(schema, "required");
  for (size_t i = 0; i < json_array_size(required); i++) {
    const char *name = json_string_value(json_array_get(required, i));
    if (name && strcmp(name, key) == 0) return true;
  }
  return false;
}

/* A property that is a union: its comments, `name:`, one line a member, a comma on its own line. */
static void put_union_property(schema_writer *w, const json_t *property, const char *name, const char *mark,
                               size_t indent) {
  const json_t *variants = get_array(property, "oneOf");
  const json_t *description = get_string(property, "description");
  const json_t *first = get_string(json_array_get(variants, 0), "description");
  bool above = description && !same_string(description, first);
  if (above) put_comment(w->out, indent, description);
  const json_t *value = json_object_get(property, "default");
  if (value) {
    put_indent(w->out, indent);
    ie_buf_append_str(w->out, "// ");
    put_default(w->out, property, value, /*bare_enum=*/true);
    ie_buf_append_char(w->out, '\n');
  }
  put_indent(w->out, indent);
  ie_buf_append_str(w->out, name);
  ie_buf_append_str(w->out, mark);
  ie_buf_append_str(w->out, ":\n");
  for (size_t i = 0; i < json_array_size(variants); i++) {
    const json_t *variant = json_array_get(variants, i);
    const json_t *own = get_string(variant, "description");
    if ((i == 0 && above) || same_string(own, description)) own = NULL;
    put_indent(w->out, indent);
    ie_buf_append_str(w->out, " | ");
    put_nullable_type(w, variant, indent + 3);
    put_trailing(w->out, variant, own, /*bare_enum=*/true);
    ie_buf_append_char(w->out, '\n');
  }
  put_indent(w->out, indent);
  ie_buf_append_str(w->out, ",\n");
}

static void put_property_comments(ie_buf *out, const json_t *property, size_t indent) {
  const json_t *title = get_string(property, "title");
  if (title) {
    put_comment(out, indent, title);
    put_indent(out, indent);
    ie_buf_append_str(out, "//\n");
  }
  const json_t *description = get_string(property, "description");
  if (description && !json_object_get(property, "oneOf")) put_comment(out, indent, description);
  const json_t *examples = get_array(property, "examples");
  if (json_array_size(examples) == 0) return;
  put_indent(out, indent);
  ie_buf_append_str(out, "// Examples:\n");
  for (size_t i = 0; i < json_array_size(examples); i++) {
    const json_t *example = json_array_get(examples, i);
    if (!json_is_string(example)) continue;
    put_indent(out, indent);
    ie_buf_append_str(out, "// - ");
    put_quoted(out, example);
    ie_buf_append_char(out, '\n');
  }
}

static void put_property(schema_writer *w, const json_t *property, const char *name, const char *mark,
                         size_t indent) {
  put_property_comments(w->out, property, indent);
  if (get_array(property, "oneOf")) {
    put_union_property(w, property, name, mark, indent);
    return;
  }
  put_indent(w->out, indent);
  ie_buf_append_str(w->out, name);
  ie_buf_append_str(w->out, mark);
  ie_buf_append_str(w->out, ": ");
  put_nullable_type(w, property, indent + 4);
  ie_buf_append_char(w->out, ',');
  const json_t *value = json_object_get(property, "default");
  if (value && !json_object_get(property, "oneOf")) {
    ie_buf_append_str(w->out, " // ");
    put_default(w->out, property, value, /*bare_enum=*/true);
  }
  ie_buf_append_char(w->out, '\n');
}

static void put_object(schema_writer *w, const json_t *schema, size_t indent) {
  const json_t *description = get_string(schema, "description");
  if (description) put_comment(w->out, indent, description);
  ie_buf_append_str(w->out, "{\n");
  json_t *properties = json_object_get(schema, "properties");
  for (void *it = json_object_iter(properties); it; it = json_object_iter_next(properties, it)) {
    const char *name = json_object_iter_key(it);
    put_property(w, json_object_iter_value(it), name, is_required(schema, name) ? "" : "?", indent);
  }
  put_indent(w->out, indent);
  ie_buf_append_char(w->out, '}');
}

/* The string members of an enum; false when there is none. */
static bool put_enum(ie_buf *out, const json_t *values) {
  bool any = false;
  for (size_t i = 0; i < json_array_size(values); i++) {
    const json_t *value = json_array_get(values, i);
    if (!json_is_string(value)) continue;
    if (any) ie_buf_append_str(out, " | ");
    any = true;
    put_quoted(out, value);
  }
  return any;
}

/* A list of type names; false when it holds no string. */
static bool put_type_list(ie_buf *out, const json_t *types) {
  bool any = false;
  for (size_t i = 0; i < json_array_size(types); i++) {
    const char *name = json_string_value(json_array_get(types, i));
    if (!name) continue;
    if (any) ie_buf_append_str(out, " | ");
    any = true;
    if (strcmp(name, "integer") == 0) {
      ie_buf_append_str(out, "number");
    } else {
      put_json_text(out, json_array_get(types, i));
    }
  }
  return any;
}

static void put_named_type(schema_writer *w, const char *type, const json_t *schema, size_t indent) {
  const json_t *items = json_object_get(schema, "items");
  if (strcmp(type, "object") == 0) {
    put_object(w, schema, indent);
  } else if (strcmp(type, "string") == 0) {
    if (!put_enum(w->out, get_array(schema, "enum"))) ie_buf_append_str(w->out, "string");
  } else if (strcmp(type, "number") == 0 || strcmp(type, "integer") == 0) {
    ie_buf_append_str(w->out, "number");
  } else if (strcmp(type, "boolean") == 0) {
    ie_buf_append_str(w->out, "boolean");
  } else if (strcmp(type, "array") == 0 && items) {
    put_type(w, items, indent);
    ie_buf_append_str(w->out, "[]");
  } else {
    ie_buf_append_str(w->out, strcmp(type, "array") == 0 ? "Array<any>" : "any");
  }
}

static void put_type(schema_writer *w, const json_t *schema, size_t indent) {
  if (w->depth == SCHEMA_DEPTH_MAX) {
    w->too_deep = true;
    return;
  }
  w->depth++;
  const json_t *variants = get_array(schema, "oneOf");
  const json_t *type = json_object_get(schema, "type");
  if (variants) {
    put_union(w, variants, indent);
  } else if (!(json_is_array(type) && put_type_list(w->out, type))) {
    put_named_type(w, json_is_string(type) ? json_string_value(type) : "any", schema, indent);
  }
  w->depth--;
}

/* ---- the section ---- */

/* Each line of the text as "\n" + prefix + line. Lines end at \n or \r\n; a last line may be unended. */
static void put_lines(ie_buf *out, const char *prefix, harmony_str text) {
  for (size_t at = 0; text.text && at < text.size;) {
    const char *line = text.text + at;
    const char *end = memchr(line, '\n', text.size - at);
    size_t size = end ? (size_t)(end - line) : text.size - at;
    at += size + 1;
    if (end && size && line[size - 1] == '\r') size--;
    ie_buf_append_char(out, '\n');
    ie_buf_append_str(out, prefix);
    ie_buf_append(out, line, size);
  }
}

static ie_status get_required(const json_t *object, const char *key, const char *where, harmony_str *out,
                              ie_error *error) {
  *out = (harmony_str){0};
  if (!json_is_object(object))
    return ie_error_set(error, IE_FORMAT, "%s: expected an object, found %s", where,
                        ie_json_type_name(object));
  ie_status status = harmony_get(object, key, where, out, error);
  if (status == IE_OK && !out->text) status = ie_error_set(error, IE_FORMAT, "%s.%s is missing", where, key);
  return status;
}

static ie_status tool_write(ie_buf *out, const json_t *tool, const char *where, ie_error *error) {
  harmony_str name, description;
  ie_status status = get_required(tool, "name", where, &name, error);
  if (status == IE_OK) status = harmony_get(tool, "description", where, &description, error);
  if (status != IE_OK) return status;
  put_lines(out, "// ", description);
  ie_buf_append_str(out, "\ntype ");
  ie_buf_append(out, name.text, name.size);
  const json_t *parameters = json_object_get(tool, "parameters");
  if (!parameters || json_is_null(parameters)) {
    ie_buf_append_str(out, " = () => any;\n");
    return IE_OK;
  }
  ie_buf_append_str(out, " = (_: ");
  schema_writer writer = {.out = out};
  put_type(&writer, parameters, 0);
  ie_buf_append_str(out, ") => any;\n");
  if (writer.too_deep)
    return ie_error_set(error, IE_LIMIT, "%s: tool %s: its schema is nested deeper than %d levels", where,
                        ie_quote(name.text).text, SCHEMA_DEPTH_MAX);
  return IE_OK;
}

/* own: the only namespace, made from the tools of a request, which `where` then names. */
static ie_status namespace_write(ie_buf *out, const json_t *space, bool own, const char *where,
                                 ie_error *error) {
  harmony_str name, description;
  ie_status status = get_required(space, "name", where, &name, error);
  if (status == IE_OK) status = harmony_get(space, "description", where, &description, error);
  if (status != IE_OK) return status;
  const json_t *tools = json_object_get(space, "tools");
  if (!json_is_array(tools))
    return ie_error_set(error, IE_FORMAT, "%s.tools: expected an array, found %s", where,
                        ie_json_type_name(tools));
  bool any = json_array_size(tools) > 0;
  ie_buf_append_str(out, "## ");
  ie_buf_append(out, name.text, name.size);
  ie_buf_append_char(out, '\n');
  put_lines(out, any ? "// " : "", description);
  if (!any) return IE_OK;
  ie_buf_append_str(out, "\nnamespace ");
  ie_buf_append(out, name.text, name.size);
  ie_buf_append_str(out, " {\n");
  for (size_t i = 0; i < json_array_size(tools) && status == IE_OK; i++) {
    char place[288];
    snprintf(place, sizeof place, "%s%s[%zu]", where, own ? "" : ".tools", i);
    status = tool_write(out, json_array_get(tools, i), place, error);
  }
  ie_buf_append_str(out, "\n} // namespace ");
  ie_buf_append(out, name.text, name.size);
  return status;
}

static int keys_compare(const void *a, const void *b) {
  const char *const *x = a, *const *y = b;
  return strcmp(*x, *y);
}

ie_status harmony_tools_write(ie_buf *out, const json_t *namespaces, bool own, const char *where,
                              ie_error *error) {
  json_t *map = (json_t *)(uintptr_t)namespaces; /* jansson's iterators take no const; nothing is changed */
  size_t count = json_object_size(map), n = 0;
  const char **keys = calloc(count + 1, sizeof *keys);
  if (!keys) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", where);
  for (void *it = json_object_iter(map); it; it = json_object_iter_next(map, it))
    keys[n++] = json_object_iter_key(it);
  qsort(keys, n, sizeof *keys, keys_compare);
  ie_buf_append_str(out, "# Tools");
  ie_status status = IE_OK;
  for (size_t i = 0; i < n && status == IE_OK; i++) {
    ie_buf_append_str(out, "\n\n");
    char place[224];
    snprintf(place, sizeof place, "%s%s%s", where, own ? "" : ".", own ? "" : ie_quote(keys[i]).text);
    status = namespace_write(out, json_object_get(map, keys[i]), own, place, error);
  }
  free(keys);
  return status;
}

bool harmony_tools_callable(const json_t *namespaces) {
  return json_array_size(json_object_get(json_object_get(namespaces, "functions"), "tools")) > 0;
}
