/* train/snapshot and base/folder: what is saved comes back, the oldest go, and a kill at any moment costs one snapshot. */
#include "base/clock.h"
#include "base/file.h"
#include "base/folder.h"
#include "base/rng.h"
#include "support/tempdir.h"
#include "train/snapshot.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { N = 5000 };

typedef struct run {
  float m[N];
  uint8_t v[16];
  int64_t step;
} run;

static void run_tensors(run *r, ie_state_tensor out[2]) {
  out[0] = (ie_state_tensor){.name = "m", .dtype = IE_F32, .rank = 2, .shape = {N / 10, 10}, .data = r->m};
  out[1] = (ie_state_tensor){.name = "v", .dtype = IE_U8, .rank = 1, .shape = {16}, .data = r->v};
}

static void run_set(run *r, int64_t step) {
  r->step = step;
  for (int i = 0; i < N; i++) r->m[i] = ie_rng_f32(1, (uint64_t)step, (uint64_t)i);
  memset(r->v, (int)(step & 255), sizeof r->v);
}

/* A model of two files. */
static ie_status model_write(void *user, const char *folder, ie_error *error) {
  const run *r = user;
  char path[1024], text[32];
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/part%d", folder, i);
    int n = snprintf(text, sizeof text, "%lld", (long long)r->step);
    ie_status status = ie_file_write(path, text, (size_t)n, error);
    if (status != IE_OK) return status;
  }
  return IE_OK;
}

static ie_status run_save(run *r, const char *dir, int64_t keep, ie_error *error) {
  ie_state_tensor tensors[2];
  run_tensors(r, tensors);
  json_t *state = json_pack("{s:I, s:s}", "step", (json_int_t)r->step, "hash", "abc");
  const ie_snapshot snapshot = {.dir = dir,
                                .step = r->step,
                                .keep = keep,
                                .write_model = model_write,
                                .user = r,
                                .tensors = tensors,
                                .count = 2,
                                .state = state};
  ie_status status = ie_snapshot_save(&snapshot, error);
  if (status == IE_OK) status = ie_snapshot_rotate(&snapshot, error);
  json_decref(state);
  return status;
}

static void save_ok(run *r, const char *dir, int64_t keep) {
  ie_error error = {0};
  if (run_save(r, dir, keep, &error) != IE_OK) fail_msg("%s", error.message);
}

/* The newest snapshot is whole and says the same everywhere; its step, or -1 when there is none. */
static int64_t newest_check(const char *dir) {
  char *path;
  ie_error error = {0};
  if (ie_snapshot_newest(dir, &path, &error) != IE_OK) fail_msg("%s", error.message);
  if (!path) return -1;
  run *got = calloc(1, sizeof *got), *want = calloc(1, sizeof *want);
  ie_state_tensor tensors[2];
  json_t *state;
  run_tensors(got, tensors);
  if (ie_snapshot_load(path, tensors, 2, &state, &error) != IE_OK) fail_msg("%s", error.message);
  json_t *alone;
  if (ie_snapshot_state(path, &alone, &error) != IE_OK) fail_msg("%s", error.message);
  assert_true(json_equal(state, alone));
  json_decref(alone);
  int64_t step = json_integer_value(json_object_get(state, "step"));
  run_set(want, step);
  assert_memory_equal(got->m, want->m, sizeof got->m);
  assert_memory_equal(got->v, want->v, sizeof got->v);
  for (int i = 0; i < 2; i++) {
    ie_buf text = {0};
    if (ie_file_read(tempdir_path(path, i ? "part1" : "part0"), 100, &text, &error) != IE_OK)
      fail_msg("%s", error.message);
    assert_int_equal(atoll(text.data), step);
    ie_buf_free(&text);
  }
  json_decref(state);
  free(got);
  free(want);
  free(path);
  return step;
}

static size_t entries_count(const char *dir) {
  DIR *list = opendir(dir);
  size_t count = 0;
  assert_non_null(list);
  for (struct dirent *e; (e = readdir(list)) != NULL;) count += e->d_name[0] != '.';
  closedir(list);
  return count;
}

static void saved_and_loaded(void **state) {
  (void)state;
  char *dir = tempdir_make(), out[600];
  snprintf(out, sizeof out, "%s/run", dir);
  run *r = calloc(1, sizeof *r);
  assert_int_equal(newest_check(out), -1); /* no such folder */
  for (int64_t step = 100; step <= 500; step += 100) {
    run_set(r, step);
    save_ok(r, out, 3);
    assert_int_equal(newest_check(out), step);
  }
  assert_int_equal(entries_count(out), 3);
  assert_true(ie_folder_exists(tempdir_path(out, "step-000300")));
  ie_snapshot_list list;
  ie_error error = {0};
  assert_int_equal(ie_snapshot_list_read(out, &list, &error), IE_OK);
  assert_int_equal(list.count, 3);
  assert_true(list.steps[0] == 300 && list.steps[1] == 400 && list.steps[2] == 500);
  ie_snapshot_list_free(&list);
  /* The same step again, and a step past six digits; all are kept with keep 0. */
  save_ok(r, out, 0);
  run_set(r, 12345678);
  save_ok(r, out, 0);
  assert_int_equal(newest_check(out), 12345678);
  assert_int_equal(entries_count(out), 4);
  /* Not snapshots: other names, a folder without a state, and what a killed writer left, which goes. */
  tempdir_write_text(out, "step-900000/x", "no state");
  tempdir_write_text(out, "step-9/state.safetensors", "");
  tempdir_write_text(out, "step-000950.part.99.0/state.safetensors", "");
  assert_int_equal(newest_check(out), 12345678);
  run_set(r, 12345679);
  save_ok(r, out, 0);
  assert_false(ie_folder_exists(tempdir_path(out, "step-000950.part.99.0")));
  /* The one that was just written stays although it is the oldest. */
  run_set(r, 7);
  save_ok(r, out, 1);
  assert_int_equal(newest_check(out), 7);
  free(r);
  tempdir_remove(dir);
}

static ie_status model_refuse(void *user, const char *folder, ie_error *error) {
  (void)user;
  (void)folder;
  return ie_error_set(error, IE_NUMERIC, "it is NaN");
}

static void failures_leave_nothing(void **state) {
  (void)state;
  char *dir = tempdir_make();
  run *r = calloc(1, sizeof *r);
  ie_error error = {0};
  json_t *object = json_object();
  const ie_snapshot bad = {.dir = dir, .step = 1, .write_model = model_refuse, .state = object};
  assert_int_equal(ie_snapshot_save(&bad, &error), IE_NUMERIC);
  assert_int_equal(entries_count(dir), 0);
  const ie_snapshot negative = {.dir = dir, .step = -1, .state = object};
  assert_int_equal(ie_snapshot_save(&negative, &error), IE_INVALID_ARGUMENT);
  json_decref(object);
  /* Another run's state. */
  run_set(r, 3);
  save_ok(r, dir, 0);
  ie_state_tensor tensors[2];
  json_t *loaded;
  run_tensors(r, tensors);
  char *path = ie_snapshot_path(dir, 3);
  tensors[0].shape[0] = 1;
  assert_int_equal(ie_snapshot_load(path, tensors, 2, &loaded, &error), IE_FORMAT);
  assert_null(loaded);
  run_tensors(r, tensors);
  tensors[1].name = "w";
  assert_int_equal(ie_snapshot_load(path, tensors, 2, &loaded, &error), IE_FORMAT);
  assert_non_null(strstr(error.message, "tensor w is missing"));
  assert_int_equal(ie_snapshot_load(path, tensors, 1, &loaded, &error), IE_FORMAT);
  assert_non_null(strstr(error.message, "expected 1 tensors of state, found 2"));
  assert_int_equal(ie_snapshot_load(dir, tensors, 1, &loaded, &error), IE_IO);
  assert_int_equal(ie_snapshot_state(dir, &loaded, &error), IE_IO);
  assert_null(loaded);
  free(path);
  free(r);
  tempdir_remove(dir);
}

/* A child saves step after step and is killed at a random moment, again and again: the newest snapshot is always
 * whole, never older than the one before, and what the dead leave does not grow. */
static void killed_at_any_moment(void **state) {
  (void)state;
  char *dir = tempdir_make();
  int64_t last = 1;
  int saved = 0;
  run *first = calloc(1, sizeof *first);
  double start_s = ie_clock_s();
  for (int64_t step = 0; step <= last; step++) {
    run_set(first, step);
    save_ok(first, dir, 2);
  }
  double save_us = 5e5 * (ie_clock_s() - start_s);
  free(first);
  /* On a busy machine a child may get nothing done before it is killed: then there are more rounds. */
  for (uint64_t round = 0; round < 40 || (saved <= 5 && round < 400); round++) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
      run *r = calloc(1, sizeof *r);
      for (int64_t step = last + 1; r; step++) {
        run_set(r, step);
        if (run_save(r, dir, 2, NULL) != IE_OK) break;
      }
      _exit(1);
    }
    usleep((useconds_t)(ie_rng_f64(5, 0, round) * 3 * save_us) + 500);
    assert_int_equal(kill(pid, SIGKILL), 0);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status)); /* it did not end by itself */
    int64_t step = newest_check(dir);
    assert_true(step >= last);
    saved += step > last;
    last = step;
  }
  assert_true(saved > 5); /* rounds got somewhere */
  run *r = calloc(1, sizeof *r);
  run_set(r, last + 1);
  save_ok(r, dir, 2);
  assert_int_equal(entries_count(dir), 2);
  free(r);
  tempdir_remove(dir);
}

/* A staging folder that a living writer holds is not removed by another. */
static void staging_of_the_living(void **state) {
  (void)state;
  char *dir = tempdir_make(), place[600];
  snprintf(place, sizeof place, "%s/place/", dir);
  ie_staging a, b;
  ie_error error = {0};
  assert_int_equal(ie_staging_open(place, &a, &error), IE_OK);
  assert_int_equal(ie_staging_open(place, &b, &error), IE_OK);
  assert_true(ie_folder_exists(a.path) && ie_folder_exists(b.path));
  tempdir_write_text(a.path, "deep/er/a", "1");
  tempdir_write_text(b.path, "b", "1");
  assert_int_equal(ie_staging_commit(&a, &error), IE_OK);
  assert_int_equal(ie_staging_commit(&b, &error), IE_OK); /* replaces it */
  assert_true(ie_file_exists(tempdir_path(place, "b")));
  assert_false(ie_folder_exists(tempdir_path(place, "deep")));
  assert_int_equal(entries_count(dir), 1);
  assert_int_equal(ie_staging_commit(&a, &error), IE_INTERNAL);
  ie_staging_abandon(&a);
  assert_int_equal(ie_staging_open(place, &a, &error), IE_OK);
  ie_staging_abandon(&a);
  /* Its place is a file. */
  tempdir_write_text(dir, "file", "1");
  snprintf(place, sizeof place, "%s/file", dir);
  assert_int_equal(ie_staging_open(place, &a, &error), IE_OK);
  assert_int_equal(ie_staging_commit(&a, &error), IE_IO);
  assert_int_equal(entries_count(dir), 2);
  assert_int_equal(ie_folder_remove(place, &error), IE_IO);
  snprintf(place, sizeof place, "%s/place", dir);
  assert_int_equal(symlink("/nowhere", tempdir_path(place, "link")), 0);
  assert_int_equal(ie_folder_remove(place, &error), IE_OK);
  assert_int_equal(entries_count(dir), 1);
  tempdir_remove(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(saved_and_loaded),
      cmocka_unit_test(failures_leave_nothing),
      cmocka_unit_test(killed_at_any_moment),
      cmocka_unit_test(staging_of_the_living),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
