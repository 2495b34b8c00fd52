#include "cli.h"

#include <stdarg.h>
#include <stdio.h>

int cli_exit_code(ie_status status) {
  if (status == IE_OK) return CLI_OK;
  return status == IE_INVALID_ARGUMENT ? CLI_USAGE : CLI_FAILED;
}

static void message_print(const cli_context *context, const char *format, va_list args) {
  const char *on = context->env.color ? "\033[1;31m" : "", *off = context->env.color ? "\033[0m" : "";
  bool dialect = context->command && context->command->dialect;
  flockfile(stderr);
  fprintf(stderr, "%s%s:%s ", on, dialect ? "error" : "clocher", off);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  funlockfile(stderr);
}

int cli_fail(const cli_context *context, ie_status status, const ie_error *error) {
  const char *message =
      error && error->status != IE_OK && error->message[0] ? error->message : ie_status_name(status);
  cli_failf(context, "%s", message);
  return cli_exit_code(status);
}

int cli_failf(const cli_context *context, const char *format, ...) {
  va_list args;
  va_start(args, format);
  message_print(context, format, args);
  va_end(args);
  return CLI_FAILED;
}

int cli_usage(const cli_context *context, const char *format, ...) {
  va_list args;
  va_start(args, format);
  message_print(context, format, args);
  va_end(args);
  if (context->command && context->command->dialect) return cli_usage_line(context);
  if (context->command) fprintf(stderr, "Try: clocher %s --help\n", context->command->name);
  return CLI_USAGE;
}

int cli_usage_line(const cli_context *context) {
  const cli_command *command = context->command;
  fprintf(stderr, "Usage: %s %s\nTry: %s --help\n", command->dialect->program, command->usage,
          command->dialect->program);
  return CLI_USAGE;
}

void cli_log(const cli_context *context, const char *format, ...) {
  if (context->common.quiet) return;
  va_list args;
  va_start(args, format);
  flockfile(stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  funlockfile(stderr);
  va_end(args);
}

const char *cli_cache_dir(const cli_context *context) {
  return context->common.no_cache ? NULL : context->env.cache_dir;
}
