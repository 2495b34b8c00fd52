/* The command line: what a command is, how its options are described, parsed and explained.
 *
 * A command is one file cmd_<name>.c with one `const cli_command cmd_<name>`, listed in commands.c. Its options
 * are a table: the same table parses the arguments into the command's own settings struct and writes --help, so
 * the two cannot differ. Rules for every command:
 *
 *   --flag value and --flag=value; a flag without argument takes none; the last of a repeated flag counts (with a
 *   note), a list flag (CLI_STRINGS) collects; `--` ends the flags; `-` is an ordinary argument; --help, -h.
 *   Unknown flags are refused, with the nearest known one where one is near.
 *   Results go to stdout, everything else to stderr. Exit 0 ok, 1 failed, 2 usage, 4 quality gate.
 *
 * A command's run function gets a cli_context and its filled settings, writes results with the functions of
 * cli/out.h, reports failures with cli_fail() and returns an exit code. Settings and strings live until it
 * returns. cli/ includes clocher/, jansson and libc only; the environment is read once, by main. */
#ifndef CLOCHER_CLI_CLI_H
#define CLOCHER_CLI_CLI_H

#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_GATE = 4, CLI_INTERRUPTED = 130 };

/* What an option's value is, and the type of its field in the settings struct. */
typedef enum cli_kind {
  CLI_FLAG,   /* bool; no value */
  CLI_INT,    /* int64_t in [min, max] */
  CLI_FLOAT,  /* double in [min, max], finite */
  CLI_SIZE,   /* uint64_t bytes: an integer with optional KiB MiB GiB KB MB GB */
  CLI_STRING, /* const char *, NULL when absent */
  CLI_PATH,   /* the same, not empty */
  CLI_CHOICE, /* int: index in choices */
  CLI_STRINGS /* cli_strings, in the order given */
} cli_kind;

typedef struct cli_strings {
  const char **items; /* (count), borrowed strings */
  size_t count;
} cli_strings;

typedef struct cli_option {
  const char *name; /* with its dashes: "--max-new" */
  cli_kind kind;
  size_t offset;              /* CLI_FIELD: where the value goes */
  const char *argument;       /* the value's name in the help: "N"; NULL for CLI_FLAG */
  const char *fallback;       /* the default, parsed as if it had been given; NULL: zero, NULL or absent */
  const char *meaning;        /* one or two sentences */
  double min, max;            /* CLI_INT, CLI_FLOAT; both 0: any value (CLI_INT: 0 to 2^53) */
  const char *const *choices; /* CLI_CHOICE, NULL-terminated */
  bool required;
} cli_option;

/* Offset of a field, checked at compile time to have the type that the option's kind writes. */
#define CLI_FIELD(settings, field, type)                                                                     \
  (offsetof(settings, field) + 0 * sizeof(&((settings *)0)->field == (type *)0))
#define CLI_AS_FLAG(s, f)    .kind = CLI_FLAG, .offset = CLI_FIELD(s, f, bool)
#define CLI_AS_INT(s, f)     .kind = CLI_INT, .offset = CLI_FIELD(s, f, int64_t)
#define CLI_AS_FLOAT(s, f)   .kind = CLI_FLOAT, .offset = CLI_FIELD(s, f, double)
#define CLI_AS_SIZE(s, f)    .kind = CLI_SIZE, .offset = CLI_FIELD(s, f, uint64_t)
#define CLI_AS_STRING(s, f)  .kind = CLI_STRING, .offset = CLI_FIELD(s, f, const char *)
#define CLI_AS_PATH(s, f)    .kind = CLI_PATH, .offset = CLI_FIELD(s, f, const char *)
#define CLI_AS_CHOICE(s, f)  .kind = CLI_CHOICE, .offset = CLI_FIELD(s, f, int)
#define CLI_AS_STRINGS(s, f) .kind = CLI_STRINGS, .offset = CLI_FIELD(s, f, cli_strings)

/* Indices of --precision, --weights and --affinity. */
enum { CLI_FP32, CLI_BF16, CLI_FP16, CLI_INT8 };
enum { CLI_WEIGHTS_PUBLISHED, CLI_WEIGHTS_INT8, CLI_WEIGHTS_INT4 };
extern const char *const cli_affinities[];

/* The options that every command takes: the order of their table, and the bits of cli_command.common. --quiet acts
 * everywhere. A command that has no use for another one says so when it is given. */
typedef enum cli_common_option {
  CLI_COMMON_THREADS,
  CLI_COMMON_AFFINITY,
  CLI_COMMON_PRECISION,
  CLI_COMMON_WEIGHTS,
  CLI_COMMON_DETERMINISTIC,
  CLI_COMMON_MEMORY,
  CLI_COMMON_DEVICE,
  CLI_COMMON_NO_CACHE,
  CLI_COMMON_QUIET,
  CLI_COMMON_COUNT
} cli_common_option;

enum {
  CLI_USES_TEAM = 1 << CLI_COMMON_THREADS | 1 << CLI_COMMON_AFFINITY | 1 << CLI_COMMON_DEVICE,
  CLI_USES_MODEL = CLI_USES_TEAM | 1 << CLI_COMMON_PRECISION | 1 << CLI_COMMON_WEIGHTS |
                   1 << CLI_COMMON_DETERMINISTIC | 1 << CLI_COMMON_MEMORY,
  CLI_USES_CACHE = 1 << CLI_COMMON_NO_CACHE
};

typedef struct cli_common {
  int64_t threads;    /* 0: one a core */
  int affinity;       /* index in cli_affinities */
  int precision;      /* CLI_FP32 ... */
  int weights;        /* CLI_WEIGHTS_PUBLISHED ... */
  const char *device; /* as ie_device_options.kind: cli_device_check has looked at it */
  uint64_t memory;    /* limit in bytes; 0: none */
  bool deterministic;
  bool quiet;
  bool no_cache;
} cli_common;

/* The environment, read once at the start. */
typedef struct cli_env {
  const char *isa; /* CLOCHER_ISA, or NULL */
  char *cache_dir; /* the program's own folder for caches, or NULL: nowhere to put one */
  char *state_dir; /* the same for what it remembers, such as a history of lines */
  bool color;      /* stderr is a terminal and NO_COLOR is not set */
  bool terminal;   /* stderr is a terminal */
  bool out_color;  /* the same of stdout */
  bool out_terminal;
  bool in_terminal; /* stdin is a terminal */
  int ranks;        /* processes that mpirun or the like has started together; 0 where nothing says so */
  const char *const
      *engine; /* values of infer_variables (inference_engine.h), NULL where unset; NULL under the
                                name clocher, which reads none of them */
} cli_env;

typedef struct cli_command cli_command;
typedef struct cli_context cli_context;

/* What is wrong with a flag, in cli_dialect.refuse. */
typedef enum cli_refusal {
  CLI_UNKNOWN_FLAG,
  CLI_BAD_INT,
  CLI_BAD_FLOAT,
  CLI_NO_VALUE,
  CLI_NO_FLAG
} cli_refusal;

/* A command that keeps the interface of another program: a name and messages of its own ("error: ..."), and no flags
 * but those of its table. The grammar, the help's form and all checks are the same. */
typedef struct cli_dialect {
  const char *program;    /* "inference-engine" */
  const char *exit_codes; /* the last line of the help */
  /* The message for `text`, the flag or value at fault; option is NULL for CLI_UNKNOWN_FLAG and CLI_NO_FLAG (an
   * argument too many). Called once, followed by the usage on stderr. */
  void (*refuse)(const cli_context *context, cli_refusal what, const cli_option *option, const char *text);
} cli_dialect;

struct cli_context {
  const cli_command *command;
  cli_common common;
  cli_env env;
  const char *const *args; /* (arg_count) what is no flag, in order; borrowed */
  size_t arg_count;
  const bool *given;       /* one per option of the command's table */
  int exit_on_write_error; /* private to out.c: errno of the first failed write to stdout */
};

struct cli_command {
  const char *name;           /* "chat-format" */
  const char *summary;        /* one line for the list of commands */
  const char *usage;          /* what follows the name: "--model-dir D [flags]" */
  const char *help;           /* the longer text of --help; may be NULL */
  const cli_option *options;  /* ends with an entry without name; may be NULL */
  size_t settings_bytes;      /* size of the struct that the options fill */
  unsigned common;            /* bits of cli_common_option: those that act here */
  size_t args_min, args_max;  /* how many arguments that are no flags */
  const cli_dialect *dialect; /* NULL: a command of clocher */
  const char *exit_codes;     /* the last line of the help; NULL: those of every command */
  int (*run)(cli_context *context, void *settings); /* NULL: of a later milestone, answers "not built yet" */
  /* Sub-commands, NULL-terminated: the first argument says which ("train tokenizer" by "tokenizer"), and everything above
   * but name, summary, usage and help is theirs. NULL: this is a command of its own. */
  const struct cli_command *const *parts;
};

/* All commands, in the order of the help; ends with NULL. commands.c. */
extern const cli_command *const cli_commands[];

/* Of this program: "0.1.0", and the commit it was built from ("unknown" outside a git tree). version.c. */
const char *cli_version(void);
const char *cli_commit(void);

/* True when the flag ("--seed") stood on the command line. */
bool cli_given(const cli_context *context, const char *flag);

/* Whether a common option acts in this command. */
bool cli_uses(const cli_command *command, cli_common_option option);

/* Logs each common option outside `used` that was given: "clocher: --memory is ignored: WHAT does not use it". */
void cli_unused_log(const cli_context *context, const char *what, unsigned used);

/* The folder for caches, or NULL when there is none or --no-cache was given. */
const char *cli_cache_dir(const cli_context *context);

/* Prints "clocher: MESSAGE" on stderr and returns the exit code that belongs to the status. */
int cli_fail(const cli_context *context, ie_status status, const ie_error *error);
/* The exit code of a status: 2 for IE_INVALID_ARGUMENT, 1 for all other failures. */
int cli_exit_code(ie_status status);
/* Prints the usage line of a dialect on stderr, and returns 2. */
int cli_usage_line(const cli_context *context);
/* Prints a usage error that names the command's help, and returns 2. */
__attribute__((format(printf, 2, 3))) int cli_usage(const cli_context *context, const char *format, ...);
/* Prints "clocher: ..." on stderr: a failure that has no ie_error. Returns 1. */
__attribute__((format(printf, 2, 3))) int cli_failf(const cli_context *context, const char *format, ...);
/* Prints one line on stderr; nothing with --quiet. */
__attribute__((format(printf, 2, 3))) void cli_log(const cli_context *context, const char *format, ...);

/* Strict numbers: the whole string, nothing before or after. False when it is none or out of range. */
bool cli_parse_int(const char *text, int64_t min, int64_t max, int64_t *out);
bool cli_parse_float(const char *text, double min, double max, double *out);
bool cli_parse_size(const char *text, uint64_t *out);

/* Writes the value that `text` says into the option's field of `settings`. False, with the reason in why[size], when
 * it is none. The field of a string borrows `text`. */
bool cli_option_store(const cli_option *option, void *settings, const char *text, char *why, size_t size);

/* The candidate (of a NULL-terminated list) that is nearest to a mistyped word; NULL when none is near: more than two
 * edits away, and more than a third of the word. A word that a candidate begins with is nearer than any other. */
const char *cli_nearest(const char *word, const char *const *candidates);

/* Parses argv (after the command's name) into *context and *settings, which is fresh memory. Returns -1 to go
 * on, or an exit code (after --help: 0). cli_parsed_free releases what the parse allocated. */
typedef struct cli_parsed {
  void *settings;
  const char **args;
  bool *given;
} cli_parsed;

int cli_parse(cli_context *context, int argc, char **argv, cli_parsed *parsed);
void cli_parsed_free(const cli_command *command, cli_parsed *parsed);

/* What names a sub-command behind its command: "tokenizer" of "train tokenizer". */
const char *cli_part_word(const cli_command *part);

/* Writes --help of one command (with its sub-commands), or the list of commands, on stdout. */
void cli_help(const cli_command *command);
void cli_help_all(void);

/* The table of options that every command takes; offsets are in cli_common. */
extern const cli_option cli_common_options[];

#endif
