#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool cli_parse_int(const char *text, int64_t min, int64_t max, int64_t *out) {
  const char *digits = text + (*text == '-' || *text == '+');
  if (!*digits || digits[strspn(digits, "0123456789")]) return false;
  errno = 0;
  long long value = strtoll(text, NULL, 10);
  if (errno || value < min || value > max) return false;
  *out = value;
  return true;
}

bool cli_parse_float(const char *text, double min, double max, double *out) {
  /* strtod also takes leading spaces, hexadecimal, inf and nan: not here. No locale is ever set. */
  if (!*text || text[strspn(text, "+-.0123456789eE")]) return false;
  char *end;
  double value = strtod(text, &end);
  if (end == text || *end || !isfinite(value) || value < min || value > max) return false;
  *out = value;
  return true;
}

bool cli_parse_size(const char *text, uint64_t *out) {
  static const struct {
    const char *suffix;
    uint64_t factor;
  } units[] = {
      {"", 1},          {"KB", 1000},     {"MB", 1000000},  {"GB", 1000000000},
      {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
  };
  size_t digits = strspn(text, "0123456789");
  if (!digits) return false;
  errno = 0;
  unsigned long long value = strtoull(text, NULL, 10);
  if (errno) return false;
  for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
    uint64_t bytes;
    if (strcmp(text + digits, units[i].suffix) != 0) continue;
    if (__builtin_mul_overflow((uint64_t)value, units[i].factor, &bytes)) return false;
    *out = bytes;
    return true;
  }
  return false;
}

/* Edit distance (Levenshtein; a swap of neighbours counts one: Damerau's restricted form). Words beyond the
 * table's width are compared by their beginning. */
static int word_distance(const char *a, const char *b) {
  enum { WIDTH = 64 };
  int d[3][WIDTH + 1];
  int n = (int)strnlen(a, WIDTH), m = (int)strnlen(b, WIDTH);
  for (int j = 0; j <= m; j++) d[0][j] = j;
  for (int i = 1; i <= n; i++) {
    int *row = d[i % 3], *above = d[(i + 2) % 3], *before = d[(i + 1) % 3];
    row[0] = i;
    for (int j = 1; j <= m; j++) {
      int best = above[j - 1] + (a[i - 1] != b[j - 1]);
      if (above[j] + 1 < best) best = above[j] + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
        best = before[j - 2] + 1;
      row[j] = best;
    }
  }
  return d[n % 3][m];
}

const char *cli_nearest(const char *word, const char *const *candidates) {
  const char *best = NULL;
  size_t letters = strlen(word + strspn(word, "-/")), third = strlen(word) / 3;
  int farthest = letters < 4 ? 1 : third < 2 ? 2 : third > 21 ? 21 : (int)third;
  int best_distance = 2 * farthest + 1; /* one above the farthest */
  for (; *candidates; candidates++) {
    int distance = 2 * word_distance(word, *candidates);
    if (strlen(word) > 3 && !strncmp(*candidates, word, strlen(word))) distance = 1;
    if (distance >= best_distance) continue;
    best = *candidates;
    best_distance = distance;
  }
  return best;
}
