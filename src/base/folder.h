/* Folders that appear whole: filled under another name, then renamed into their place; and removing one.
 *
 * A staging folder lies beside its place as PATH.part.PID.N and is locked (flock) for as long as its writer lives. What
 * a killed writer left is removed when PATH is staged again, on file systems that have flock. Files in it are written
 * through ie_writer (base/file.h), which flushes them to the disk. */
#ifndef CLOCHER_BASE_FOLDER_H
#define CLOCHER_BASE_FOLDER_H

#include "clocher/status.h"

typedef struct ie_staging {
  char *path;  /* where it is filled; owned. NULL: not open */
  char *place; /* where it belongs; owned */
  int fd;      /* holds the lock */
} ie_staging;

/* Makes an empty folder beside `place`, whose parents are made when missing. On failure *out is all zero. */
ie_status ie_staging_open(const char *place, ie_staging *out, ie_error *error);
/* Flushes the folder and renames it into its place; a folder that is there already is exchanged for it, then removed.
 * Closes the staging in any case; on failure what was staged is removed. */
ie_status ie_staging_commit(ie_staging *staging, ie_error *error);
/* Removes what was staged. Does nothing on one that was committed or never opened. */
void ie_staging_abandon(ie_staging *staging);

/* Removes what dead writers left in `dir`: folders PREFIX*.part.N. Failures are left for the next time. */
void ie_staging_clean(const char *dir, const char *prefix);

/* Removes a folder with all that is in it; renamed first, so that no part of it is ever seen under its name. Links in it
 * are removed, not followed. IE_IO when something could not be removed. */
ie_status ie_folder_remove(const char *path, ie_error *error);

/* Makes renames within a folder durable. A file system that cannot is not an error. */
void ie_folder_sync(const char *path);

#endif
