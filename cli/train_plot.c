/* The plot of a training run: losses over steps, drawn by gnuplot from a script with the numbers in it. */
#include "train_report.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs gnuplot, as PATH finds it, with the script as its input. False with errno ENOENT: it is not installed. */
static bool gnuplot_run(FILE *script) {
  static const char *const command[] = {"gnuplot", NULL};
  posix_spawn_file_actions_t files;
  if (fflush(script) != 0 || fseek(script, 0, SEEK_SET) != 0 || posix_spawn_file_actions_init(&files) != 0)
    return false;
  bool ok = posix_spawn_file_actions_adddup2(&files, fileno(script), STDIN_FILENO) == 0 &&
            posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0) == 0 &&
            posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0) == 0;
  pid_t pid = -1;
  int why =
      ok ? posix_spawnp(&pid, command[0], &files, NULL, (char *const *)(uintptr_t)command, environ) : ENOMEM;
  posix_spawn_file_actions_destroy(&files);
  int code = -1;
  if (why == 0)
    while (waitpid(pid, &code, 0) < 0 && errno == EINTR) continue;
  errno = why;
  return why == 0 && code == 0;
}

/* Rows "step value" of one key, ended as gnuplot wants inline data. False when there is none. */
static bool column_write(FILE *to, const char *metrics, const char *key) {
  FILE *from = fopen(metrics, "r");
  char *line = NULL;
  size_t capacity = 0;
  bool any = false;
  while (from && getline(&line, &capacity, from) > 0) {
    json_t *object = json_loads(line, 0, NULL);
    const json_t *step = json_object_get(object, "step"), *value = json_object_get(object, key);
    if (json_is_integer(step) && json_is_number(value)) {
      fprintf(to, "%lld %.6g\n", (long long)json_integer_value(step), json_number_value(value));
      any = true;
    }
    json_decref(object);
  }
  free(line);
  if (from) fclose(from);
  return any;
}

/* A here-document of gnuplot, "$name". */
static bool block_write(FILE *to, const char *name, const char *metrics, const char *key) {
  fprintf(to, "$%s << end\n", name);
  bool any = column_write(to, metrics, key);
  fprintf(to, "end\n");
  return any;
}

/* In single quotes gnuplot takes all characters as they are but the quote; a leading | would be a command. */
static void path_write(FILE *to, const char *path) {
  fputs(path[0] == '/' ? "'" : "'./", to);
  for (; *path; path++) {
    if (*path == '\'') fputc('\'', to);
    fputc(*path, to);
  }
  fputc('\'', to);
}

bool train_plot_draw(const cli_context *context, const char *metrics, const char *path, bool asked) {
  if (strpbrk(path, "\n\r")) {
    if (asked) cli_log(context, "clocher: no plot: its path holds a line break");
    return false;
  }
  FILE *script = tmpfile();
  if (!script) return false;
  bool loss = block_write(script, "loss", metrics, "loss");
  bool valid = block_write(script, "valid", metrics, "valid_loss");
  fprintf(script, "set terminal pngcairo size 900,540\nset output ");
  path_write(script, path);
  fprintf(script, "\nset xlabel 'step'\nset ylabel 'loss, nats a token'\nset grid\nplot ");
  fprintf(script, "%s%s%s\n", loss ? "$loss with lines lw 1 title 'training'" : "", loss && valid ? ", " : "",
          valid ? "$valid with linespoints lw 2 pt 7 title 'validation'" : "");
  errno = 0;
  bool ok = loss && gnuplot_run(script);
  bool missing = !ok && errno == ENOENT;
  fclose(script);
  if (ok)
    cli_log(context, "the plot is in %s", path);
  else if (asked && missing)
    cli_log(context, "clocher: no plot: gnuplot is not installed");
  else if (asked)
    cli_log(context, "clocher: gnuplot could not draw %s", path);
  return ok;
}
