#include "cli.h"

#include <stdio.h>
#include <string.h>

enum { HELP_COLUMN = 28, HELP_WIDTH = 100 };

/* Prints words from column `at` on, wrapped, continued at column `indent`. */
static void text_wrap(const char *text, int at, int indent) {
  while (*text) {
    int word = (int)strcspn(text, " ");
    if (at + word > HELP_WIDTH && at > indent) {
      printf("\n%*s", indent, "");
      at = indent;
    }
    printf("%.*s", word, text);
    at += word;
    text += word;
    while (*text == ' ') text++;
    if (*text && at + 1 + (int)strcspn(text, " ") <= HELP_WIDTH) {
      putchar(' ');
      at++;
    } else if (*text) {
      printf("\n%*s", indent, "");
      at = indent;
    }
  }
  putchar('\n');
}

/* `used`: bits of the options that are shown. */
static void options_print(const char *title, const cli_option *table, unsigned used) {
  if (!table || !table->name) return;
  printf("\n%s:\n", title);
  for (size_t row = 0; table->name; table++, row++) {
    if (row < 32 && !(used & 1u << row)) continue;
    char text[1024], flag[128];
    snprintf(flag, sizeof flag, "  %s%s%s", table->name, table->argument ? " " : "",
             table->argument ? table->argument : "");
    size_t n = (size_t)snprintf(text, sizeof text, "%s", table->meaning);
    for (int i = 0; table->kind == CLI_CHOICE && table->choices[i] && n < sizeof text; i++)
      n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", i ? ", " : " One of: ", table->choices[i]);
    if (table->kind == CLI_CHOICE && n < sizeof text) n += (size_t)snprintf(text + n, sizeof text - n, ".");
    if (table->kind == CLI_STRINGS && n < sizeof text)
      n += (size_t)snprintf(text + n, sizeof text - n, " May be repeated.");
    if (table->fallback && n < sizeof text)
      n += (size_t)snprintf(text + n, sizeof text - n, " [default: %s]", table->fallback);
    if (table->required && n < sizeof text) snprintf(text + n, sizeof text - n, " [required]");
    int at = printf("%s", flag);
    if (at + 2 > HELP_COLUMN) {
      putchar('\n');
      at = 0;
    }
    printf("%*s", HELP_COLUMN - at, "");
    text_wrap(text, HELP_COLUMN, HELP_COLUMN);
  }
}

/* The rest of them, which this command accepts and ignores. */
static void unused_print(const cli_command *command) {
  char list[256] = "";
  for (int i = 0; i < CLI_COMMON_COUNT; i++) {
    size_t n = strlen(list);
    if (!cli_uses(command, (cli_common_option)i))
      snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", cli_common_options[i].name);
  }
  if (!list[0]) return;
  int at = printf("  Ignored here: ");
  text_wrap(list, at, at);
}

const char *cli_part_word(const cli_command *part) {
  const char *space = strrchr(part->name, ' ');
  return space ? space + 1 : part->name;
}

/* The sub-commands one after the other, and what every command takes once. */
static void parts_help(const cli_command *command) {
  unsigned common = 0;
  int at = printf("Usage: clocher %s ", command->name);
  text_wrap(command->usage ? command->usage : "NAME [flags]", at, 9);
  printf("\n%s.\n", command->summary);
  if (command->help) printf("\n%s\n", command->help);
  for (const cli_command *const *p = command->parts; *p; p++) {
    char title[160];
    snprintf(title, sizeof title, "%s: %s", (*p)->name, (*p)->summary);
    options_print(title, (*p)->options, ~0u);
    common |= (*p)->common;
  }
  options_print("Flags of every command", cli_common_options, common | 1u << CLI_COMMON_QUIET);
  printf("\nclocher %s NAME --help explains one of them.\n", command->name);
}

void cli_help(const cli_command *command) {
  if (command->parts) {
    parts_help(command);
    return;
  }
  if (!command->run) {
    printf("clocher %s: %s\n\nThis command is not built yet.\n", command->name, command->summary);
    return;
  }
  const cli_dialect *dialect = command->dialect;
  int at = dialect ? printf("Usage: %s ", dialect->program) : printf("Usage: clocher %s ", command->name);
  text_wrap(command->usage ? command->usage : "[flags]", at, 9);
  printf("\n%s.\n", command->summary);
  if (command->help) printf("\n%s\n", command->help);
  options_print("Flags", command->options, ~0u);
  if (!dialect) {
    options_print("Flags of every command", cli_common_options, command->common | 1u << CLI_COMMON_QUIET);
    unused_print(command);
  }
  printf("\nExit: %s.\n", dialect ? dialect->exit_codes
                          : command->exit_codes
                              ? command->exit_codes
                              : "0 ok, 1 failed, 2 usage or bad argument, 4 quality gate, 130 Ctrl-C");
}

void cli_help_all(void) {
  printf("Clocher runs language models of the families gpt-oss, Qwen, Llama, GPT-NeoX and nanochat on this "
         "machine.\n\nUsage: clocher COMMAND [flags]\n\n");
  for (int built = 1; built >= 0; built--) {
    printf(built ? "Commands:\n" : "\nNot built yet:\n");
    for (const cli_command *const *c = cli_commands; *c; c++)
      if (((*c)->run || (*c)->parts) == built) printf("  %-14s%s\n", (*c)->name, (*c)->summary);
  }
  printf("\nclocher COMMAND --help explains a command and its flags. Environment: "
         "CLOCHER_ISA=scalar|avx2|avx512|amx\n"
         "forces a kernel set; XDG_CACHE_HOME; NO_COLOR.\n");
}
