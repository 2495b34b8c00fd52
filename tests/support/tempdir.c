#include "support/tempdir.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

char *tempdir_make(void) {
  const char *base = getenv("TMPDIR");
  char *dir = NULL;
  assert_true(asprintf(&dir, "%s/clocher-test-XXXXXX", base && base[0] ? base : "/tmp") > 0);
  assert_non_null(mkdtemp(dir));
  return dir;
}

static int entry_remove(const char *path, const struct stat *st, int type, struct FTW *ftw) {
  (void)st;
  (void)type;
  (void)ftw;
  return remove(path);
}

void tempdir_remove(char *dir) {
  if (!dir) return;
  (void)nftw(dir, entry_remove, 16, FTW_DEPTH | FTW_PHYS);
  free(dir);
}

const char *tempdir_path(const char *dir, const char *name) {
  static char buffers[4][1024];
  static unsigned next;
  char *buffer = buffers[next++ % 4];
  assert_true(snprintf(buffer, sizeof buffers[0], "%s/%s", dir, name) < (int)sizeof buffers[0]);
  return buffer;
}

const char *tempdir_write(const char *dir, const char *name, const void *data, size_t size) {
  char *path = (char *)(size_t)tempdir_path(dir, name);
  for (char *p = path + strlen(dir) + 1; (p = strchr(p, '/')); p++) {
    *p = '\0';
    (void)mkdir(path, 0777);
    *p = '/';
  }
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  if (size) assert_int_equal(fwrite(data, 1, size, file), size);
  assert_int_equal(fclose(file), 0);
  return path;
}

const char *tempdir_write_text(const char *dir, const char *name, const char *text) {
  return tempdir_write(dir, name, text, strlen(text));
}
