/* Checkpoints of PyTorch: what torch.save has written since version 1.6 (pytorch_model.bin, model_000700.pt).
 *
 * A zip archive (formats/zip.h) with one folder: data.pkl, a pickle (base/pickle.h, read as data, nothing is called),
 * and data/KEY, the bytes of each storage, uncompressed. The pickle holds a dictionary from names to tensors; a tensor
 * is a view of a storage: offset, shape, strides. Several tensors may share one storage (tied weights).
 *
 *   {"name": torch._utils._rebuild_tensor_v2(("storage", torch.FloatStorage, "KEY", "cpu", elements), offset,
 *                                            shape, strides, requires_grad, OrderedDict()), ..}
 *
 * Tensors are used where they lie in the mapping. One whose elements do not follow each other there (a transposed
 * view), or are not aligned, is copied once, in order; all copies of a file together are at most as large as the file.
 * A dictionary without tensors is searched for one under model, state_dict, model_state_dict or module. Values that
 * are no tensors are skipped. The prefix "_orig_mod.", which torch.compile puts before names, is dropped.
 *
 * Refused, with the file and the place named: the format before 1.6, TorchScript, big endian, any class or opcode that
 * such a file has no use for, storages of another size than their type and count say, views beyond their storage,
 * names of more than 1 KiB (64 MiB together), more than 262144 tensors.
 * Owner: ie_torch_pt_free. */
#ifndef CLOCHER_FORMATS_TORCH_PT_H
#define CLOCHER_FORMATS_TORCH_PT_H

#include "formats/table.h"

typedef struct ie_torch_copy ie_torch_copy;

typedef struct ie_torch_pt {
  ie_table table;        /* by name; file and data are borrowed */
  ie_torch_copy *copies; /* what could not be used in place */
  size_t copied_bytes;
} ie_torch_pt;

/* path names the file in messages and in ie_tensor_info.file; it and bytes must outlive *out. On failure *out is all
 * zero. ie_tensor_info.offset is where the tensor's first element lies in the file, for a copy too. */
ie_status ie_torch_pt_parse(const void *bytes, size_t size, const char *path, ie_torch_pt *out,
                            ie_error *error);
void ie_torch_pt_free(ie_torch_pt *pt);
/* Frees copies that were taken out of an ie_torch_pt. */
void ie_torch_copies_free(ie_torch_copy *copies);
/* Puts the copies of `from` before those of *to; from keeps none. */
void ie_torch_copies_move(ie_torch_copy **to, ie_torch_pt *from);

#endif
