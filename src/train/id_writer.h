/* Writes id files (train/id_file.h). A file is written beside its name and renamed when it is complete and on the disk. */
#ifndef CLOCHER_TRAIN_ID_WRITER_H
#define CLOCHER_TRAIN_ID_WRITER_H

#include "train/id_file.h"

typedef struct ie_id_writer ie_id_writer;

/* vocab and the three hashes are taken from *header; the rest is filled in. masked: documents come with masks. */
ie_status ie_id_writer_open(const char *path, const ie_id_header *header, bool masked, ie_id_writer **out,
                            ie_error *error);
/* One document of `count` >= 1 ids. mask: (count) 0 or 1, or NULL where all are targets. bytes: of its text. */
ie_status ie_id_writer_add(ie_id_writer *writer, const int32_t *ids, size_t count, const uint8_t *mask,
                           uint64_t bytes, ie_error *error);
/* Completes the file. Frees the writer in any case. */
ie_status ie_id_writer_commit(ie_id_writer *writer, ie_error *error);
/* Leaves no file. NULL is allowed. */
void ie_id_writer_abandon(ie_id_writer *writer);

#endif
