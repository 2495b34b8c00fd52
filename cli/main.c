/* The entry: reads the environment, finds the command, runs it, and settles what became of stdout. */
#include "cli.h"
#include "engine.h"
#include "inference_engine.h"
#include "out.h"
#include "signals.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* $VARIABLE/clocher or $HOME/FALLBACK/clocher, as the XDG base directory specification says (relative paths are
 * ignored). Fresh memory or NULL. */
static char *xdg_dir_make(const char *variable, const char *fallback) {
  const char *xdg = getenv(variable), *home = getenv("HOME");
  char *dir = NULL;
  if (xdg && xdg[0] == '/') return asprintf(&dir, "%s/clocher", xdg) < 0 ? NULL : dir;
  if (home && home[0] == '/') return asprintf(&dir, "%s/%s/clocher", home, fallback) < 0 ? NULL : dir;
  return NULL;
}

/* How many processes mpirun (Open MPI) or another starter (PMI) has started with this one. */
static int ranks_read(void) {
  const char *text = getenv("OMPI_COMM_WORLD_SIZE");
  int64_t ranks;
  if (!text) text = getenv("PMI_SIZE");
  return text && cli_parse_int(text, 1, INT32_MAX, &ranks) ? (int)ranks : 0;
}

static cli_env env_read(void) {
  const char *no_color = getenv("NO_COLOR"), *isa = getenv("CLOCHER_ISA");
  bool terminal = isatty(STDERR_FILENO) == 1, out_terminal = isatty(STDOUT_FILENO) == 1;
  bool color = !(no_color && no_color[0]);
  return (cli_env){
      .isa = isa && isa[0] ? isa : NULL,
      .cache_dir = xdg_dir_make("XDG_CACHE_HOME", ".cache"),
      .state_dir = xdg_dir_make("XDG_STATE_HOME", ".local/state"),
      .color = terminal && color,
      .terminal = terminal,
      .out_color = out_terminal && color,
      .out_terminal = out_terminal,
      .in_terminal = isatty(STDIN_FILENO) == 1,
      .ranks = ranks_read(),
  };
}

static const cli_command *command_find(const char *name) {
  for (const cli_command *const *c = cli_commands; *c; c++)
    if (!strcmp((*c)->name, name)) return *c;
  return NULL;
}

static int command_unknown(const cli_context *context, const char *name) {
  enum { MOST = 64 };
  const char *names[MOST + 1] = {0};
  for (size_t i = 0; i < MOST && cli_commands[i]; i++) names[i] = cli_commands[i]->name;
  const char *what = name[0] == '-' ? "flag" : "command";
  const char *nearest = cli_nearest(name, names);
  cli_failf(context, "unknown %s '%s'%s%s", what, name, nearest ? "; the nearest command is " : "",
            nearest ? nearest : "");
  fprintf(stderr, "Try: clocher --help\n");
  return CLI_USAGE;
}

static bool is_help(const char *word) {
  return !strcmp(word, "--help") || !strcmp(word, "-h");
}

/* Goes on with the sub-command that argv[0] names. -1, or an exit code after help or a message. */
static int part_choose(cli_context *context, int argc, char **argv) {
  enum { MOST = 16 };
  const char *names[MOST + 1] = {0};
  char list[256] = "";
  const cli_command *command = context->command;
  if (argc > 0 && is_help(argv[0])) {
    cli_help(command);
    return CLI_OK;
  }
  if (argc > 0 && argv[0][0] == '-') { /* what is wrong with the flag comes first */
    cli_parsed parsed;
    int code = cli_parse(context, argc, argv, &parsed);
    cli_parsed_free(command, &parsed);
    if (code >= 0) return code;
  }
  for (size_t i = 0; i < MOST && command->parts[i]; i++) {
    names[i] = cli_part_word(command->parts[i]);
    if (argc > 0 && !strcmp(argv[0], names[i])) {
      context->command = command->parts[i];
      return -1;
    }
    size_t n = strlen(list);
    snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", names[i]);
  }
  if (argc == 0) return cli_usage(context, "expected one of %s behind %s", list, command->name);
  const char *nearest = cli_nearest(argv[0], names);
  return cli_usage(context, "%s: expected one of %s, found '%s'%s%s", command->name, list, argv[0],
                   nearest ? "; the nearest is " : "", nearest ? nearest : "");
}

/* --device: a word that is not known is wrong use; one that is not built, or that training cannot use, an answer. Returns
 * -1 when all is well. */
static int device_check(const cli_context *context) {
  const char *device = context->common.device;
  bool cuda = cli_device_is_cuda(device);
  if (!cuda && strcmp(device, "auto") != 0 && strcmp(device, "cpu") != 0 && strcmp(device, "ze") != 0)
    return cli_usage(context, "--device: expected one of auto, cpu, cuda, cuda:N, ze; found '%s'", device);
  if (!cli_uses(context->command, CLI_COMMON_DEVICE)) return -1;
  if (!strcmp(device, "ze"))
    return cli_failf(context,
                     "--device ze: not built (no build has Level Zero); auto, cpu and cuda are known");
  if (cuda && !ie_device_cuda_built())
    return cli_failf(context, "--device %s: not built (this program was built without CUDA)", device);
  return -1;
}

static int command_run(cli_context *context, int argc, char **argv) {
  cli_parsed parsed;
  if (context->command->parts) {
    int chosen = part_choose(context, argc, argv);
    if (chosen >= 0) return chosen;
    argc--;
    argv++;
  }
  const cli_command *command = context->command;
  if (!command->run) {
    if (argc > 0 && is_help(argv[0])) {
      cli_help(command);
      return CLI_OK;
    }
    return cli_failf(context, "%s is not built yet", command->name);
  }
  int code = cli_parse(context, argc, argv, &parsed);
  if (code < 0) code = device_check(context);
  if (code < 0) code = command->run(context, parsed.settings);
  cli_parsed_free(command, &parsed);
  return code;
}

/* `clocher help [COMMAND]` and the flags that stand alone. Returns -1 when argv is an ordinary command. */
static int help_run(cli_context *context, int argc, char **argv) {
  if (argc < 2) {
    cli_help_all();
    return CLI_OK;
  }
  const char *word = argv[1];
  bool help = !strcmp(word, "help");
  if (!strcmp(word, "--help") || !strcmp(word, "-h") || (help && argc == 2)) {
    cli_help_all();
    return CLI_OK;
  }
  if (!help) return -1;
  const cli_command *command = command_find(argv[2]);
  if (!command) return command_unknown(context, argv[2]);
  cli_help(command);
  return CLI_OK;
}

/* The variables of documents that call the program inference-engine, as they are now. */
static void engine_env_read(const char *values[INFER_VARIABLES]) {
  for (size_t i = 0; i < INFER_VARIABLES; i++) values[i] = getenv(infer_variables[i].name);
}

/* Called inference-engine (or inference-engine.cuda), the program is that command and no other. */
static bool called_engine(const char *path) {
  const char *slash = path ? strrchr(path, '/') : NULL;
  const char *name = slash ? slash + 1 : path;
  return name && !strncmp(name, cmd_inference_engine.name, strlen(cmd_inference_engine.name));
}

static int engine_run(cli_context *context, int argc, char **argv) {
  const char *values[INFER_VARIABLES];
  engine_env_read(values);
  context->env.engine = values;
  context->command = &cmd_inference_engine;
  int code = command_run(context, argc - 1, argv + 1);
  context->env.engine = NULL;
  return code;
}

static int program_run(cli_context *context, int argc, char **argv) {
  int code = help_run(context, argc, argv);
  if (code >= 0) return code;
  const char *name = strcmp(argv[1], "--version") ? argv[1] : "version";
  context->command = command_find(name);
  return context->command ? command_run(context, argc - 2, argv + 2) : command_unknown(context, name);
}

int main(int argc, char **argv) {
  cli_out_init();
  cli_signals_install();
  cli_context context = {.env = env_read()};
  int code = called_engine(argv[0]) ? engine_run(&context, argc, argv) : program_run(&context, argc, argv);
  free(context.env.cache_dir);
  free(context.env.state_dir);
  return cli_out_finish(&context, code);
}
