#include "cli.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const precisions[] = {"fp32", "bf16", "fp16", "int8", NULL};
static const char *const weights[] = {"published", "int8", "int4", NULL};

const char *const cli_affinities[] = {"auto", "none", "compact", "scatter", NULL};

const cli_option cli_common_options[] = {
    [CLI_COMMON_THREADS] = {"--threads", CLI_AS_INT(cli_common, threads), .argument = "N", .min = 1,
                            .max = 1024,
                            .meaning = "Threads; default: one a core. Results do not depend on it."},
    [CLI_COMMON_AFFINITY] = {"--affinity", CLI_AS_CHOICE(cli_common, affinity), .argument = "A",
                             .fallback = "auto", .choices = cli_affinities,
                             .meaning =
                                 "Which processors threads are pinned to: hardware threads side by side "
                                 "(compact), cores of all packages in turn (scatter); auto: scatter when "
                                 "the threads fill the machine, else none."},
    [CLI_COMMON_PRECISION] = {"--precision", CLI_AS_CHOICE(cli_common, precision), .argument = "P",
                              .fallback = "bf16", .choices = precisions,
                              .meaning = "How activations enter a product."},
    [CLI_COMMON_WEIGHTS] = {"--weights", CLI_AS_CHOICE(cli_common, weights), .argument = "W",
                            .fallback = "published", .choices = weights,
                            .meaning =
                                "Attention, dense MLPs and the output matrix as published, or quantised at "
                                "load: int8 in groups of 32 or int4 in groups of 64."},
    [CLI_COMMON_DETERMINISTIC] =
        {"--deterministic", CLI_AS_FLAG(cli_common, deterministic),
         .meaning = "Results do not depend on chunk and batch either, to the bit. Prompts are "
                    "slower: matrix kernels are left out but for quantised weights in class int8."},
    [CLI_COMMON_MEMORY] = {"--memory", CLI_AS_SIZE(cli_common, memory), .argument = "SIZE",
                           .meaning = "Memory limit, such as 4GiB; default: none."},
    [CLI_COMMON_DEVICE] = {"--device", CLI_AS_STRING(cli_common, device), .argument = "D", .fallback = "auto",
                           .meaning =
                               "Where to compute: auto (the first CUDA device of a program that is built "
                               "for CUDA, else the CPU), cpu, cuda, cuda:N. ze is not built."},
    [CLI_COMMON_NO_CACHE] = {"--no-cache", CLI_AS_FLAG(cli_common, no_cache),
                             .meaning = "Neither read nor write the cache folder (packed tokenizers)."},
    [CLI_COMMON_QUIET] = {"--quiet", CLI_AS_FLAG(cli_common, quiet),
                          .meaning = "No logs, progress or timing on stderr; errors only."},
    [CLI_COMMON_COUNT] = {0},
};

typedef struct parser {
  cli_context *context;
  cli_parsed *parsed;
  int status;              /* -1 while all is well */
  const char *repeated[8]; /* flags to be told of when all of the line is read: --quiet may follow */
  size_t repeated_count;
} parser;

static const cli_option *table_find(const cli_option *table, const char *flag, size_t length) {
  for (; table && table->name; table++)
    if (strlen(table->name) == length && !memcmp(table->name, flag, length)) return table;
  return NULL;
}

static size_t table_count(const cli_option *table) {
  size_t n = 0;
  while (table && table[n].name) n++;
  return n;
}

/* The nearest flag of both tables; NULL: none is near. */
static const char *flag_nearest(const cli_command *command, const char *flag) {
  size_t own = table_count(command->options), common = table_count(cli_common_options);
  const char **names = calloc(own + common + 2, sizeof *names);
  if (!names) return NULL;
  size_t n = 0;
  for (size_t i = 0; i < own; i++) names[n++] = command->options[i].name;
  for (size_t i = 0; i < common; i++) names[n++] = cli_common_options[i].name;
  names[n++] = "--help";
  const char *nearest = cli_nearest(flag, names);
  free(names);
  return nearest;
}

static void bounds_get(const cli_option *option, double *min, double *max) {
  bool any = option->min == 0 && option->max == 0;
  *min = any ? (option->kind == CLI_INT ? 0 : -HUGE_VAL) : option->min;
  *max = any ? (option->kind == CLI_INT ? 0x1p53 : HUGE_VAL) : option->max;
}

/* What is wrong in a dialect's own words; -1 in a command of clocher, which says it itself. */
static int dialect_refuse(const cli_context *context, cli_refusal what, const cli_option *option,
                          const char *text) {
  const cli_dialect *dialect = context->command->dialect;
  if (!dialect) return -1;
  dialect->refuse(context, what, option, text);
  return cli_usage_line(context);
}

/* Flags of every command, but in a dialect. */
static const cli_option *common_table(const cli_command *command) {
  return command->dialect ? NULL : cli_common_options;
}

static bool number_refuse(const cli_option *option, const char *text, char *why, size_t size) {
  double min, max;
  bounds_get(option, &min, &max);
  const char *kind = option->kind == CLI_INT ? "an integer" : "a number";
  if (isinf(min) && isinf(max))
    snprintf(why, size, "%s: expected %s, found '%s'", option->name, kind, text);
  else if (isinf(max))
    snprintf(why, size, "%s: expected %s of at least %.16g, found '%s'", option->name, kind, min, text);
  else
    snprintf(why, size, "%s: expected %s from %.16g to %.16g, found '%s'", option->name, kind, min, max,
             text);
  return false;
}

static bool choice_refuse(const cli_option *option, const char *text, char *why, size_t size) {
  char list[256] = "";
  for (size_t i = 0; option->choices[i]; i++) {
    size_t used = strlen(list);
    snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", option->choices[i]);
  }
  snprintf(why, size, "%s: expected one of %s; found '%s'", option->name, list, text);
  return false;
}

static bool strings_append(cli_strings *list, const char *text, char *why, size_t size) {
  const char **items = realloc(list->items, (list->count + 1) * sizeof *items);
  if (!items) {
    snprintf(why, size, "out of memory");
    return false;
  }
  list->items = items;
  items[list->count++] = text;
  return true;
}

bool cli_option_store(const cli_option *option, void *settings, const char *text, char *why, size_t size) {
  void *field = (char *)settings + option->offset;
  double min, max;
  bounds_get(option, &min, &max);
  switch (option->kind) {
  case CLI_FLAG: *(bool *)field = true; return true;
  case CLI_INT:
    return cli_parse_int(text, (int64_t)min, (int64_t)max, field) || number_refuse(option, text, why, size);
  case CLI_FLOAT: return cli_parse_float(text, min, max, field) || number_refuse(option, text, why, size);
  case CLI_SIZE:
    if (cli_parse_size(text, field)) return true;
    snprintf(why, size, "%s: expected a size such as 512MiB or 4GB, found '%s'", option->name, text);
    return false;
  case CLI_PATH:
    if (!*text) {
      snprintf(why, size, "%s: expected a path, found an empty path", option->name);
      return false;
    }
    *(const char **)field = text;
    return true;
  case CLI_STRING: *(const char **)field = text; return true;
  case CLI_STRINGS: return strings_append(field, text, why, size);
  case CLI_CHOICE:
    for (int i = 0; option->choices[i]; i++)
      if (!strcmp(text, option->choices[i])) {
        *(int *)field = i;
        return true;
      }
    return choice_refuse(option, text, why, size);
  }
  return false;
}

/* Writes one value into its field; -1, or an exit code. */
static int value_store(const cli_context *context, const cli_option *option, void *settings,
                       const char *text) {
  char why[512];
  if (cli_option_store(option, settings, text, why, sizeof why)) return -1;
  int code = -1;
  if (option->kind == CLI_INT || option->kind == CLI_FLOAT)
    code = dialect_refuse(context, option->kind == CLI_INT ? CLI_BAD_INT : CLI_BAD_FLOAT, option, text);
  return code >= 0 ? code : cli_usage(context, "%s", why);
}

static int fallbacks_store(const cli_context *context, const cli_option *table, void *settings) {
  int status = -1;
  for (; table && table->name && status < 0; table++)
    if (table->fallback) status = value_store(context, table, settings, table->fallback);
  return status;
}

static bool flag_known(const cli_command *command, const char *flag) {
  return table_find(command->options, flag, strlen(flag)) ||
         table_find(common_table(command), flag, strlen(flag));
}

static void repeated_note(parser *p, const char *flag) {
  for (size_t i = 0; i < p->repeated_count; i++)
    if (p->repeated[i] == flag) return;
  if (p->repeated_count < sizeof p->repeated / sizeof p->repeated[0]) p->repeated[p->repeated_count++] = flag;
}

static void repeated_log(const parser *p) {
  const char *who = p->context->command->dialect ? "warn" : "clocher";
  for (size_t i = 0; i < p->repeated_count; i++)
    cli_log(p->context, "%s: %s is given more than once; the last one counts", who, p->repeated[i]);
}

/* One flag at argv[*at]; moves *at past its value. */
static void flag_parse(parser *p, int argc, char **argv, int *at) {
  cli_context *context = p->context;
  const cli_command *command = context->command;
  const char *flag = argv[*at], *equals = strchr(flag, '=');
  size_t length = equals ? (size_t)(equals - flag) : strlen(flag);
  char *settings = p->parsed->settings;
  const cli_option *option = table_find(command->options, flag, length);
  bool *given = NULL;
  if (option) {
    given = &p->parsed->given[option - command->options];
  } else if ((option = table_find(common_table(command), flag, length))) {
    settings = (char *)&context->common;
    given = &p->parsed->given[table_count(command->options) + (size_t)(option - cli_common_options)];
  } else {
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int)(length < 63 ? length : 63), flag);
    if ((p->status = dialect_refuse(context, CLI_UNKNOWN_FLAG, NULL, word)) >= 0) return;
    const char *nearest = flag_nearest(command, word);
    p->status = cli_usage(context, "unknown flag %s%s%s", word, nearest ? "; the nearest is " : "",
                          nearest ? nearest : "");
    return;
  }
  const char *value = equals ? equals + 1 : NULL;
  if (option->kind == CLI_FLAG && value) {
    p->status = cli_usage(context, "%s takes no value, found '%s'", option->name, value);
    return;
  }
  if (option->kind != CLI_FLAG && !value) {
    if (*at + 1 >= argc) {
      if ((p->status = dialect_refuse(context, CLI_NO_VALUE, option, option->name)) >= 0) return;
      p->status = cli_usage(context, "%s needs a value: %s %s", option->name, option->name, option->argument);
      return;
    }
    value = argv[++*at];
    if (flag_known(command, value)) {
      p->status =
          cli_usage(context, "%s needs a value, found the flag %s (%s=%s if it is meant as the value)",
                    option->name, value, option->name, value);
      return;
    }
  }
  if (*given && option->kind != CLI_STRINGS && option->kind != CLI_FLAG) repeated_note(p, option->name);
  *given = true;
  p->status = value_store(context, option, settings, value);
}

static int required_check(const cli_context *context, const cli_parsed *parsed) {
  const cli_command *command = context->command;
  for (size_t i = 0; command->options && command->options[i].name; i++)
    if (command->options[i].required && !parsed->given[i])
      return cli_usage(context, "%s %s is missing", command->options[i].name, command->options[i].argument);
  if (context->arg_count < command->args_min)
    return cli_usage(context, "expected: clocher %s %s", command->name, command->usage ? command->usage : "");
  if (context->arg_count > command->args_max &&
      dialect_refuse(context, CLI_NO_FLAG, NULL, context->args[command->args_max]) >= 0)
    return CLI_USAGE;
  if (context->arg_count > command->args_max)
    return cli_usage(context, "unexpected argument '%s'", context->args[command->args_max]);
  return -1;
}

/* --help anywhere before `--`, unless it is the value of a flag in front of it. */
static bool help_asked(const cli_command *command, int argc, char **argv) {
  for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
    if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return true;
    const cli_option *option = table_find(command->options, argv[i], strlen(argv[i]));
    if (!option) option = table_find(common_table(command), argv[i], strlen(argv[i]));
    if (option && option->kind != CLI_FLAG) i++;
  }
  return false;
}

int cli_parse(cli_context *context, int argc, char **argv, cli_parsed *parsed) {
  const cli_command *command = context->command;
  *parsed = (cli_parsed){0};
  if (help_asked(command, argc, argv)) {
    cli_help(command);
    return CLI_OK;
  }
  size_t options = table_count(command->options) + table_count(cli_common_options);
  parsed->settings = calloc(1, command->settings_bytes + 1);
  parsed->args = calloc((size_t)argc + 1, sizeof *parsed->args);
  parsed->given = calloc(options + 1, sizeof *parsed->given);
  if (!parsed->settings || !parsed->args || !parsed->given) return cli_failf(context, "out of memory");
  context->given = parsed->given;
  context->args = parsed->args;
  parser p = {.context = context, .parsed = parsed};
  p.status = fallbacks_store(context, cli_common_options, &context->common);
  if (p.status < 0) p.status = fallbacks_store(context, command->options, parsed->settings);
  bool flags_end = false;
  for (int i = 0; i < argc && p.status < 0; i++) {
    const char *arg = argv[i];
    if (!flags_end && !strcmp(arg, "--"))
      flags_end = true;
    else if (!flags_end && arg[0] == '-' && arg[1])
      flag_parse(&p, argc, argv, &i);
    else
      parsed->args[context->arg_count++] = arg;
  }
  if (p.status < 0) repeated_log(&p);
  if (p.status < 0) p.status = required_check(context, parsed);
  if (p.status < 0 && !command->dialect) cli_unused_log(context, command->name, command->common);
  return p.status;
}

void cli_parsed_free(const cli_command *command, cli_parsed *parsed) {
  for (const cli_option *o = command->options; parsed->settings && o && o->name; o++)
    if (o->kind == CLI_STRINGS) free(((cli_strings *)(void *)((char *)parsed->settings + o->offset))->items);
  free(parsed->settings);
  free(parsed->args);
  free(parsed->given);
  *parsed = (cli_parsed){0};
}

bool cli_given(const cli_context *context, const char *flag) {
  const cli_option *table = context->command->options;
  size_t own = table_count(table);
  const cli_option *option = table_find(table, flag, strlen(flag));
  if (option) return context->given[option - table];
  option = table_find(cli_common_options, flag, strlen(flag));
  return option && context->given[own + (size_t)(option - cli_common_options)];
}

bool cli_uses(const cli_command *command, cli_common_option option) {
  return option == CLI_COMMON_QUIET || command->common & 1u << option;
}

void cli_unused_log(const cli_context *context, const char *what, unsigned used) {
  for (unsigned i = 0; i < CLI_COMMON_QUIET; i++)
    if (!(used & 1u << i) && cli_given(context, cli_common_options[i].name))
      cli_log(context, "clocher: %s is ignored: %s does not use it", cli_common_options[i].name, what);
}
