/* Writing files: all or nothing, links kept, devices and folders left alone. */
#include "base/file.h"

#include "support/tempdir.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void content_is(const char *path, const char *want) {
  ie_error error = {0};
  ie_buf text = {0};
  assert_int_equal(ie_file_read(path, 100, &text, &error), IE_OK);
  assert_string_equal(text.data ? text.data : "", want);
  ie_buf_free(&text);
}

static int files_in(const char *dir) {
  int n = 0;
  DIR *d = opendir(dir);
  for (struct dirent *e; d && (e = readdir(d)) != NULL;) n += e->d_name[0] != '.';
  closedir(d);
  return n;
}

static void commit_replaces_and_abandon_leaves(void **unused) {
  (void)unused;
  char *dir = tempdir_make();
  const char *path = tempdir_write_text(dir, "file", "old");
  ie_error error = {0};
  ie_writer w;
  assert_int_equal(ie_writer_open(path, &w, &error), IE_OK);
  assert_true(fputs("half", w.stream) >= 0);
  ie_writer_abandon(&w);
  content_is(path, "old");
  assert_int_equal(files_in(dir), 1);
  assert_int_equal(ie_file_write(path, "new", 3, &error), IE_OK);
  content_is(path, "new");
  assert_int_equal(files_in(dir), 1);
  assert_int_equal(ie_file_write(tempdir_path(dir, "no/such/folder"), "x", 1, &error), IE_IO);
  tempdir_remove(dir);
}

static void links_stay_and_their_targets_are_replaced(void **unused) {
  (void)unused;
  char *dir = tempdir_make();
  tempdir_write_text(dir, "target", "old");
  ie_error error = {0};
  struct stat st;
  char link[512], nothing[512];
  snprintf(link, sizeof link, "%s/link", dir);
  snprintf(nothing, sizeof nothing, "%s/dangling", dir);
  assert_int_equal(symlink("target", link), 0);
  assert_int_equal(ie_file_write(link, "new", 3, &error), IE_OK);
  assert_int_equal(lstat(link, &st), 0);
  assert_true(S_ISLNK(st.st_mode));
  content_is(tempdir_path(dir, "target"), "new");
  assert_int_equal(symlink("nowhere", nothing), 0);
  assert_int_equal(ie_file_write(nothing, "new", 3, &error), IE_IO);
  tempdir_remove(dir);
}

static void pipes_and_folders_are_refused(void **unused) {
  (void)unused;
  char *dir = tempdir_make();
  ie_error error = {0};
  struct stat st;
  char pipe_path[512];
  snprintf(pipe_path, sizeof pipe_path, "%s/pipe", dir);
  assert_int_equal(mkfifo(pipe_path, 0600), 0);
  assert_int_equal(ie_file_write(pipe_path, "x", 1, &error), IE_IO);
  assert_non_null(strstr(error.message, "not a regular file"));
  assert_int_equal(stat(pipe_path, &st), 0);
  assert_true(S_ISFIFO(st.st_mode));
  assert_int_equal(ie_file_write(dir, "x", 1, &error), IE_IO);
  assert_non_null(strstr(error.message, "folder"));
  unlink(pipe_path);
  tempdir_remove(dir);
}

/* What a killed writer left goes when the file is written again; what a living one writes stays, and so do files that
 * only look alike. */
static void leftovers_of_killed_writers_are_removed(void **unused) {
  (void)unused;
  char *dir = tempdir_make();
  const char *path = tempdir_path(dir, "file");
  ie_error error = {0};
  ie_writer living;
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    ie_writer w;
    if (ie_writer_open(path, &w, &error) == IE_OK && fputs("half", w.stream) >= 0) raise(SIGKILL);
    _exit(1);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFSIGNALED(status));
  assert_int_equal(files_in(dir), 1);
  tempdir_write_text(dir, "file.part.notes", "kept");
  tempdir_write_text(dir, "other.part.1.0", "kept");
  assert_int_equal(ie_writer_open(path, &living, &error), IE_OK);
  assert_int_equal(files_in(dir), 3); /* the one left is gone, the new one is there */
  assert_int_equal(ie_file_write(path, "first", 5, &error), IE_OK);
  assert_true(fputs("second", living.stream) >= 0);
  assert_int_equal(ie_writer_commit(&living, &error), IE_OK);
  content_is(path, "second");
  assert_int_equal(files_in(dir), 3);
  tempdir_remove(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(commit_replaces_and_abandon_leaves),
      cmocka_unit_test(links_stay_and_their_targets_are_replaced),
      cmocka_unit_test(pipes_and_folders_are_refused),
      cmocka_unit_test(leftovers_of_killed_writers_are_removed),
  };
  return cmocka_run_group_tests_name("file", tests, NULL, NULL);
}
