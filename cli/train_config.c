#include "train_config.h"

#include "out.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char file_name[] = "train_config.json", command_key[] = "command";

/* Flags that a file does not hold: they are about this process. --resume and --dry-run may stand in one that is
 * written by hand. */
static const char *const unwritten[] = {"--config", "--resume", "--dry-run", "--quiet", "--no-cache", NULL};

static bool in_list(const char *const *list, const char *word) {
  for (; *list; list++)
    if (!strcmp(*list, word)) return true;
  return false;
}

/* "save_every" as "--save-every". False when it is too long for a flag. */
static bool flag_of_key(const char *key, char *flag, size_t size) {
  if ((size_t)snprintf(flag, size, "--%s", key) >= size) return false;
  for (char *c = flag; *c; c++)
    if (*c == '_') *c = '-';
  return true;
}

static const cli_option *option_find(const cli_option *table, const char *flag) {
  for (; table->name; table++)
    if (!strcmp(table->name, flag)) return table;
  return NULL;
}

static int key_unknown(const cli_context *context, const char *path, const char *key, const char *flag) {
  const char *names[TRAIN_CONFIG_FLAGS + CLI_COMMON_COUNT + 1] = {0};
  size_t n = 0;
  for (const cli_option *o = context->command->options; o->name; o++) names[n++] = o->name;
  for (const cli_option *o = cli_common_options; o->name; o++) names[n++] = o->name;
  const char *nearest = cli_nearest(flag, names);
  return cli_usage(context, "%s: unknown key '%s'%s%s", path, key, nearest ? "; the nearest is " : "",
                   nearest ? nearest + 2 : "");
}

static const char *json_kind(const json_t *value) {
  static const char *const names[] = {
      [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "a list",       [JSON_STRING] = "a string",
      [JSON_INTEGER] = "an integer", [JSON_REAL] = "a real number", [JSON_TRUE] = "true",
      [JSON_FALSE] = "false",        [JSON_NULL] = "null"};
  return names[json_typeof(value)];
}

/* What is expected where the value is of another type; NULL: it is of the right one. */
static const char *kind_wrong(cli_kind kind, const json_t *value) {
  switch (kind) {
  case CLI_FLAG: return json_is_boolean(value) ? NULL : "true or false";
  case CLI_INT: return json_is_integer(value) ? NULL : "an integer";
  case CLI_FLOAT: return json_is_number(value) ? NULL : "a number";
  case CLI_SIZE: return json_is_integer(value) || json_is_string(value) ? NULL : "a size such as \"4GiB\"";
  default: return json_is_string(value) ? NULL : "a string";
  }
}

/* One value into its field. -1, or 2 after a message. */
static int value_store(const cli_context *context, const char *path, const cli_option *option, void *settings,
                       const json_t *value) {
  const char *expected = kind_wrong(option->kind, value);
  if (expected)
    return cli_usage(context, "%s: %s: expected %s, found %s", path, option->name + 2, expected,
                     json_kind(value));
  if (json_is_false(value)) return -1;
  char number[64], why[512];
  const char *text = json_is_string(value) ? json_string_value(value) : number;
  if (json_is_integer(value))
    snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
  else
    snprintf(number, sizeof number, "%.17g", json_number_value(value));
  if (cli_option_store(option, settings, text, why, sizeof why)) return -1;
  return cli_usage(context, "%s: %s", path, why);
}

static int key_store(train_config *config, cli_context *context, const char *path, const char *key,
                     const json_t *value, void *settings) {
  char flag[128];
  const char *name = context->command->name;
  if (!strcmp(key, command_key)) {
    const char *found = json_string_value(value);
    if (found && !strcmp(found, name)) return -1;
    return cli_usage(context, "%s: it is for the command '%s', this is '%s'", path, found ? found : "", name);
  }
  if (!flag_of_key(key, flag, sizeof flag)) return key_unknown(context, path, key, key);
  const cli_option *own = option_find(context->command->options, flag);
  const cli_option *common = own ? NULL : option_find(cli_common_options, flag);
  if (!strcmp(flag, "--config") || (!own && !common)) return key_unknown(context, path, key, flag);
  if (own) config->given[own - context->command->options] = true;
  if (cli_given(context, flag)) settings = NULL; /* the command line wins; the value is still checked */
  if (settings)
    return value_store(context, path, own ? own : common, own ? settings : &context->common, value);
  const char *expected = kind_wrong((own ? own : common)->kind, value);
  return expected ? cli_usage(context, "%s: %s: expected %s, found %s", path, key, expected, json_kind(value))
                  : -1;
}

int train_config_read(train_config *config, cli_context *context, const char *path, void *settings) {
  enum { MOST_BYTES = 1 << 20 };
  ie_bytes text = {0};
  ie_error error = {0};
  ie_status status = cli_read(path, MOST_BYTES, &text, &error);
  if (status != IE_OK) return cli_fail(context, status, &error);
  json_error_t at;
  config->object = json_loadb((const char *)text.data, text.size, JSON_REJECT_DUPLICATES, &at);
  ie_bytes_free(&text);
  if (!config->object) return cli_usage(context, "%s: line %d: %s", path, at.line, at.text);
  if (!json_is_object(config->object))
    return cli_usage(context, "%s: expected an object of flags, found %s", path, json_kind(config->object));
  const char *key;
  json_t *value;
  json_object_foreach(config->object, key, value) {
    int code = key_store(config, context, path, key, value, settings);
    if (code >= 0) return code;
  }
  return -1;
}

void train_config_free(train_config *config) {
  json_decref(config->object);
  *config = (train_config){0};
}

bool train_config_given(const train_config *config, const cli_context *context, const char *flag) {
  const cli_option *own = option_find(context->command->options, flag);
  return cli_given(context, flag) || (own && config->given[own - context->command->options]);
}

/* The value of a field, or NULL where there is nothing to write. */
static json_t *field_json(const cli_option *option, const void *settings) {
  const void *field = (const char *)settings + option->offset;
  int64_t integer;
  uint64_t bytes;
  double real;
  bool flag;
  int choice;
  const char *text;
  switch (option->kind) {
  case CLI_FLAG: memcpy(&flag, field, sizeof flag); return flag ? json_true() : NULL;
  case CLI_INT:
    memcpy(&integer, field, sizeof integer);
    return integer < option->min ? NULL : json_integer(integer);
  case CLI_FLOAT:
    memcpy(&real, field, sizeof real);
    return option->min > 0 && real < option->min ? NULL : json_real(real);
  case CLI_SIZE: memcpy(&bytes, field, sizeof bytes); return bytes ? json_integer((json_int_t)bytes) : NULL;
  case CLI_CHOICE: memcpy(&choice, field, sizeof choice); return json_string(option->choices[choice]);
  default: memcpy(&text, field, sizeof text); return text ? cli_json_text(text, strlen(text)) : NULL;
  }
}

static void fields_add(json_t *object, const cli_option *table, const void *settings, unsigned used) {
  for (size_t i = 0; table[i].name; i++) {
    if (in_list(unwritten, table[i].name) || (i < 32 && !(used & 1u << i))) continue;
    json_t *value = field_json(&table[i], settings);
    if (value) json_object_set_new(object, table[i].name + 2, value);
  }
}

/* Digits that give all numbers back: 15 for those that were written with so many or fewer. */
static size_t digits_enough(const json_t *object) {
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)(uintptr_t)object, key, value) {
    char text[64];
    double x = json_number_value(value);
    snprintf(text, sizeof text, "%.15g", x);
    if (json_is_real(value) && strtod(text, NULL) != x) return 17;
  }
  return 15;
}

static bool file_replace(const char *path, const char *fresh, const json_t *object) {
  FILE *to = fopen(fresh, "we");
  if (!to) return false;
  size_t flags = JSON_INDENT(2) | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(digits_enough(object));
  bool ok = json_dumpf(object, to, flags) == 0 && fputc('\n', to) != EOF && fflush(to) == 0 &&
            fsync(fileno(to)) == 0;
  ok = fclose(to) == 0 && ok;
  if (ok && rename(fresh, path) == 0) return true;
  int why = errno;
  unlink(fresh);
  errno = why;
  return false;
}

/* All flags as they are in use. NULL when memory is out. */
static json_t *flags_json(const cli_context *context, const void *settings) {
  json_t *object = json_object();
  if (!object) return NULL;
  json_object_set_new(object, command_key, json_string(context->command->name));
  fields_add(object, context->command->options, settings, ~0u);
  fields_add(object, cli_common_options, &context->common, context->command->common);
  return object;
}

/* One value as text, or "not set". Owner: free. */
static char *value_text(const json_t *value) {
  return value ? json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9)) : strdup("not set");
}

/* A flag that has a default, and is missing in a file, was not known to the program that wrote it. */
static bool always_written(const cli_context *context, const char *key) {
  char flag[128];
  if (!flag_of_key(key, flag, sizeof flag)) return true;
  const cli_option *own = option_find(context->command->options, flag);
  return !own || own->fallback;
}

static void change_log(const cli_context *context, const char *key, const json_t *then, const json_t *now) {
  static const char *const idle[] = {"out", "threads", "metrics", "plot", NULL}; /* they change no number */
  bool same = then && now && json_equal(then, now);
  if (same || in_list(idle, key) || ((!then || !now) && always_written(context, key))) return;
  char *was = value_text(then), *is = value_text(now);
  if (was && is) cli_log(context, "clocher: --%s was %s, is %s from here on", key, was, is);
  free(was);
  free(is);
}

void train_config_changes(const cli_context *context, const void *settings, const char *dir) {
  char *path = cli_path_join(dir, file_name);
  json_t *then = path ? json_load_file(path, 0, NULL) : NULL, *now = flags_json(context, settings), *value;
  const char *key;
  json_object_foreach(now, key, value) if (then) change_log(context, key, json_object_get(then, key), value);
  json_object_foreach(then, key, value) if (!json_object_get(now, key)) change_log(context, key, value, NULL);
  json_decref(then);
  json_decref(now);
  free(path);
}

ie_status train_config_write(const cli_context *context, const void *settings, const char *dir,
                             ie_error *error) {
  char *path = cli_path_join(dir, file_name), *fresh = cli_path_join(dir, ".train_config.json.new");
  json_t *object = flags_json(context, settings);
  ie_status status = IE_OK;
  if (path && fresh && object) {
    if (!file_replace(path, fresh, object))
      status = ie_error_set(error, IE_IO, "%s: cannot write: %s", path, strerror(errno));
  } else {
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", dir);
  }
  json_decref(object);
  free(path);
  free(fresh);
  return status;
}
