/* Writes PyTorch's files piece by piece: zip archives whose entries are stored, and pickles of tensors. Every part can
 * be wrong on purpose. Failures of the helper itself fail the test. */
#ifndef CLOCHER_TESTS_SUPPORT_TORCH_FILE_H
#define CLOCHER_TESTS_SUPPORT_TORCH_FILE_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

/* An archive that grows. Set `method`, `flags`, ... for the entries that follow. */
typedef struct zip_writer {
  ie_buf bytes, directory;
  unsigned count;
  unsigned method, flags; /* of the next entries */
  bool wide;              /* zip64 sizes and end record */
  long lie_offset;        /* added to the offset in the directory */
  long lie_size;          /* added to both sizes in the directory */
  long lie_stored;        /* added to the stored size alone */
  bool lie_name;          /* another name in the local header */
} zip_writer;

/* Data starts at a multiple of 64 bytes, as torch.save pads it, plus `shift`. */
void zip_add(zip_writer *zip, const char *name, const void *data, size_t size, size_t shift);
/* Writes the directory; the archive is zip->bytes from then on. */
void zip_finish(zip_writer *zip);
void zip_free(zip_writer *zip);

/* A view in a pickle. storage_type: "FloatStorage", ... */
typedef struct torch_view {
  const char *name, *storage_type, *key;
  long long elements, first;
  int rank;
  long long shape[10], stride[10];
  bool parameter; /* wrapped by _rebuild_parameter */
} torch_view;

void pickle_text(ie_buf *pickle, const char *text);
void pickle_int(ie_buf *pickle, long long number);
/* name and tensor, as two values on the stack */
void pickle_view(ie_buf *pickle, const torch_view *view);
/* A whole data.pkl: {name: tensor, ..} */
void pickle_views(ie_buf *pickle, const torch_view *views, size_t count);

/* One storage of an archive. */
typedef struct torch_storage {
  const char *key;
  const void *data;
  size_t size;
} torch_storage;
/* The archive "m/" of a pickle and its storages, with byteorder and version. */
void torch_archive(zip_writer *zip, const ie_buf *pickle, const torch_storage *storages, size_t count);
/* A file of one-byte U8 tensors (names separated by spaces), all of the value `mark`; returns its bytes. */
void torch_marks(zip_writer *zip, const char *names, uint8_t mark);

#endif
