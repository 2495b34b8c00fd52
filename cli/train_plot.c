/* The plot of a training run: losses over steps, drawn by gnuplot from a table that is piped to it. */
#include "train_report.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Whether a program of that name is in PATH, asked of the shell. */
static bool gnuplot_found(void) {
  return system("command -v gnuplot >/dev/null 2>&1") == 0;
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

bool train_plot_draw(const cli_context *context, const char *metrics, const char *path, bool asked) {
  if (!gnuplot_found()) {
    if (asked) cli_log(context, "clocher: no plot: gnuplot is not installed");
    return false;
  }
  FILE *pipe = popen("gnuplot 2>/dev/null", "w");
  if (!pipe) return false;
  bool loss = block_write(pipe, "loss", metrics, "loss");
  bool valid = block_write(pipe, "valid", metrics, "valid_loss");
  fprintf(pipe, "set terminal pngcairo size 900,540\nset output \"");
  for (const char *c = path; *c; c++) {
    if (*c == '"' || *c == '\\') fputc('\\', pipe);
    fputc(*c, pipe);
  }
  fprintf(pipe, "\"\nset xlabel 'step'\nset ylabel 'loss, nats a token'\nset grid\nplot ");
  fprintf(pipe, "%s%s%s\n", loss ? "$loss with lines lw 1 title 'training'" : "", loss && valid ? ", " : "",
          valid ? "$valid with linespoints lw 2 pt 7 title 'validation'" : "");
  bool ok = pclose(pipe) == 0 && loss;
  if (ok)
    cli_log(context, "the plot is in %s", path);
  else if (asked)
    cli_log(context, "clocher: gnuplot could not draw %s", path);
  return ok;
}
