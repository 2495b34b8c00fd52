/* A folder for one test, and files in it. Failures of the helper itself fail the test. */
#ifndef CLOCHER_TESTS_SUPPORT_TEMPDIR_H
#define CLOCHER_TESTS_SUPPORT_TEMPDIR_H

#include <stddef.h>

/* Makes a fresh folder under $TMPDIR or /tmp. Fresh memory; tempdir_remove frees it. */
char *tempdir_make(void);
/* Removes the folder with all that is in it. */
void tempdir_remove(char *dir);

/* dir/name in a buffer of the helper that the fourth call from now overwrites. */
const char *tempdir_path(const char *dir, const char *name);
/* Writes dir/name, making the folders between; returns its path as tempdir_path does. */
const char *tempdir_write(const char *dir, const char *name, const void *data, size_t size);
const char *tempdir_write_text(const char *dir, const char *name, const char *text);

#endif
