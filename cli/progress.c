#include "progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* "1.23 GB" for bytes, "123" for anything else. */
static void amount_format(char *out, size_t size, double amount, const char *unit) {
  static const char *const steps[] = {"B", "kB", "MB", "GB", "TB"};
  int step = 0;
  if (strcmp(unit, "B") != 0) {
    snprintf(out, size, amount < 100 && amount != (double)(int)amount ? "%.1f" : "%.0f", amount);
    return;
  }
  while (amount >= 1000 && step < 4) {
    amount /= 1000;
    step++;
  }
  snprintf(out, size, step ? "%.2f %s" : "%.0f %s", amount, steps[step]);
}

static void time_format(char *out, size_t size, double seconds) {
  long s = seconds < 0 ? 0 : seconds > 3.6e8 ? 360000000 : (long)(seconds + 0.5);
  if (s < 60)
    snprintf(out, size, "%lds", s);
  else if (s < 3600)
    snprintf(out, size, "%ldm%02lds", s / 60, s % 60);
  else
    snprintf(out, size, "%ldh%02ldm", s / 3600, s % 3600 / 60);
}

static int terminal_columns(void) {
  struct winsize w;
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

static void state_draw(cli_progress *p, double now, bool last) {
  enum { BAR = 24 };
  char done[32], total[32], rate[32], left[32] = "", line[256], bar[BAR + 3] = "";
  bool bytes = !strcmp(p->unit, "B");
  double spent = now - p->start_s, speed = spent > 0 ? (double)p->done / spent : 0;
  double share = p->total ? (double)p->done / (double)p->total : 0;
  amount_format(done, sizeof done, (double)p->done, p->unit);
  amount_format(total, sizeof total, (double)p->total, p->unit);
  amount_format(rate, sizeof rate, speed, p->unit);
  if (last)
    time_format(left, sizeof left, spent);
  else if (p->total && speed > 0 && p->done < p->total)
    time_format(left, sizeof left, (double)(p->total - p->done) / speed);
  if (p->terminal && p->total && !last) {
    int full = share >= 1 ? BAR : (int)(share * BAR);
    bar[0] = '[';
    memset(bar + 1, '#', (size_t)full);
    memset(bar + 1 + full, '.', (size_t)(BAR - full));
    memcpy(bar + BAR + 1, "]", 2);
  }
  int n = snprintf(line, sizeof line, "%s %s%s%s%s%s %s", p->label, bar, *bar ? " " : "", done,
                   p->total ? "/" : "", p->total ? total : "", bytes ? "" : p->unit);
  if (n > 0 && (size_t)n < sizeof line && line[n - 1] == ' ') line[--n] = '\0';
  if (n > 0 && (size_t)n < sizeof line)
    snprintf(line + n, sizeof line - (size_t)n, "  %s%s%s/s  %s%s", rate, bytes ? "" : " ",
             bytes ? "" : p->unit, *left && last ? "in " : "", left);
  if (p->terminal)
    fprintf(stderr, "\r\033[K%.*s%s", terminal_columns() - 1, line, last ? "\n" : "");
  else
    fprintf(stderr, "%s\n", line);
  fflush(stderr);
  p->drawn = true;
  p->shown_s = now;
}

void cli_progress_start(cli_progress *p, const cli_context *context, const char *label, uint64_t total,
                        const char *unit) {
  *p = (cli_progress){.label = label,
                      .unit = unit,
                      .total = total,
                      .start_s = now_s(),
                      .terminal = context->env.terminal,
                      .silent = context->common.quiet};
  p->shown_s = p->start_s;
}

void cli_progress_set(cli_progress *p, uint64_t done) {
  double every = p->terminal ? 0.1 : 5.0, now = now_s();
  p->done = done;
  if (!p->silent && now - p->shown_s >= every) state_draw(p, now, /*last=*/false);
}

void cli_progress_end(cli_progress *p) {
  if (!p->silent) state_draw(p, now_s(), /*last=*/true);
}

void cli_progress_clear(cli_progress *p) {
  if (!p->silent && p->terminal && p->drawn) fprintf(stderr, "\r\033[K");
  p->drawn = false;
}
