#include "formats/torch_pt.h"

#include "base/pickle.h"
#include "base/quote.h"
#include "base/size.h"
#include "formats/zip.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_BYTES = 256, COPY_ALIGN = 64 };
/* A pickle may name one string many times with two bytes each: without bounds a small file would take all memory. The
 * largest published mixtures have under 100,000 tensors. */
enum { NAME_BYTES = 1 << 10, NAMES_BYTES = 64 << 20, TENSORS_MAX = 1 << 18 };

/* Precedes the elements, which start COPY_ALIGN bytes behind it. */
struct ie_torch_copy {
  ie_torch_copy *next;
};

/* What a pickle of tensors names. The first are functions; then the storages, one an element type. */
enum { REBUILD_TENSOR, REBUILD_PARAMETER, ORDERED_DICT, FIRST_STORAGE };
static const char *const globals[] = {
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "collections.OrderedDict",
    "torch.FloatStorage",
    "torch.HalfStorage",
    "torch.BFloat16Storage",
    "torch.DoubleStorage",
    "torch.LongStorage",
    "torch.IntStorage",
    "torch.ShortStorage",
    "torch.CharStorage",
    "torch.ByteStorage",
    "torch.BoolStorage",
    NULL,
};
static const ie_dtype storage_dtype[] = {IE_F32, IE_F16, IE_BF16, IE_F64, IE_I64,
                                         IE_I32, IE_I16, IE_I8,   IE_U8,  IE_BOOL};

typedef struct reader {
  const uint8_t *bytes; /* (size) the file */
  size_t size;
  const char *path;
  ie_zip zip;
  ie_pickle *pickle;
  const char *root; /* (root_size) the archive's folder with its '/', in the archive */
  size_t root_size;
  ie_torch_pt *out;
  ie_error *error;
} reader;

/* A tensor as the pickle describes it. */
typedef struct view {
  ie_tensor_info info;
  int64_t stride[IE_MAX_RANK]; /* in elements */
  const ie_zip_entry *storage;
  size_t first, elements; /* in elements of the storage */
} view;

static ie_status memory_error(const reader *r) {
  return ie_error_set(r->error, IE_OUT_OF_MEMORY, "%s: out of memory", r->path);
}

static ie_status tensor_bad(const reader *r, const char *name, const char *what) {
  return ie_error_set(r->error, IE_FORMAT, "%s: tensor %s: %s", r->path, ie_quote(name).text, what);
}

/* The entry `name` of the archive's folder, or NULL. */
static const ie_zip_entry *entry_find(const reader *r, const char *name, size_t name_size) {
  char full[2 * KEY_BYTES];
  if (r->root_size > KEY_BYTES || name_size > KEY_BYTES - 1) return NULL;
  memcpy(full, r->root, r->root_size);
  memcpy(full + r->root_size, name, name_size);
  return ie_zip_find(&r->zip, full, r->root_size + name_size);
}

/* ---- tensors ---- */

/* Unwraps parameters; NOTHING when the value is no tensor. */
static ie_pickle_value tensor_of(const reader *r, ie_pickle_value value) {
  for (int i = 0; i < 2 && value.type == IE_PICKLE_OBJECT; i++) {
    int64_t callable = ie_pickle_callable(r->pickle, value).number;
    if (callable == REBUILD_TENSOR) return value;
    if (callable != REBUILD_PARAMETER) break;
    value = ie_pickle_item(r->pickle, ie_pickle_arguments(r->pickle, value), 0);
  }
  return (ie_pickle_value){0};
}

/* ("storage", torch.FloatStorage, "17", "cpu", 4096) */
static ie_status storage_read(const reader *r, ie_pickle_value reference, view *v) {
  const char *name = v->info.name;
  const ie_pickle_value id = ie_pickle_arguments(r->pickle, reference);
  const ie_pickle_value type = ie_pickle_item(r->pickle, id, 1), key = ie_pickle_item(r->pickle, id, 2);
  const ie_pickle_value count = ie_pickle_item(r->pickle, id, 4);
  char entry[KEY_BYTES];
  if (reference.type != IE_PICKLE_PERSISTENT || id.type != IE_PICKLE_TUPLE ||
      !ie_pickle_text_is(ie_pickle_item(r->pickle, id, 0), "storage") || type.type != IE_PICKLE_GLOBAL ||
      type.number < FIRST_STORAGE || key.type != IE_PICKLE_TEXT || count.type != IE_PICKLE_INT ||
      count.number < 0)
    return tensor_bad(r, name, "its storage is not described as torch.save does");
  if (key.size > KEY_BYTES - 8) return tensor_bad(r, name, "the key of its storage is too long");
  memcpy(entry, "data/", 5);
  memcpy(entry + 5, key.data, key.size);
  v->storage = entry_find(r, entry, 5 + key.size);
  entry[5 + key.size] = '\0';
  if (!v->storage)
    return ie_error_set(r->error, IE_FORMAT, "%s: tensor %s: its storage %s is not in the archive", r->path,
                        ie_quote(name).text, ie_quote(entry).text);
  v->info.dtype = storage_dtype[type.number - FIRST_STORAGE];
  v->elements = (size_t)count.number;
  size_t bytes;
  if (!ie_size_mul(v->elements, ie_dtype_bytes(v->info.dtype), &bytes) || bytes != v->storage->size)
    return ie_error_set(r->error, IE_FORMAT,
                        "%s: tensor %s: its storage %s has %zu bytes, expected %lld of %s", r->path,
                        ie_quote(name).text, ie_quote(entry).text, v->storage->size, (long long)count.number,
                        ie_dtype_name(v->info.dtype));
  return IE_OK;
}

/* Shape and strides, and that all elements lie in the storage. */
static ie_status view_read(const reader *r, ie_pickle_value shape, ie_pickle_value stride, view *v) {
  const char *name = v->info.name;
  size_t rank = ie_pickle_count(r->pickle, shape);
  if (shape.type != IE_PICKLE_TUPLE || stride.type != IE_PICKLE_TUPLE ||
      ie_pickle_count(r->pickle, stride) != rank)
    return tensor_bad(r, name, "its shape and strides are not two tuples of one length");
  if (rank > IE_MAX_RANK)
    return ie_error_set(r->error, IE_UNSUPPORTED, "%s: tensor %s: %zu dimensions, expected at most %d",
                        r->path, ie_quote(name).text, rank, IE_MAX_RANK);
  v->info.rank = (int)rank;
  size_t count = 1, last = v->first, step;
  for (size_t i = 0; i < rank; i++) {
    const ie_pickle_value n = ie_pickle_item(r->pickle, shape, i), s = ie_pickle_item(r->pickle, stride, i);
    if (n.type != IE_PICKLE_INT || s.type != IE_PICKLE_INT || n.number < 0 || s.number < 0)
      return tensor_bad(r, name, "its shape or strides are no numbers from 0");
    v->info.shape[i] = n.number;
    v->stride[i] = s.number;
    if (!ie_size_mul(count, (size_t)n.number, &count))
      return tensor_bad(r, name, "the product of its shape does not fit 64 bits");
    if (n.number > 0 &&
        (!ie_size_mul((size_t)(n.number - 1), (size_t)s.number, &step) || !ie_size_add(last, step, &last)))
      return tensor_bad(r, name, "its elements lie beyond its storage");
  }
  if (count > 0 && last >= v->elements) return tensor_bad(r, name, "its elements lie beyond its storage");
  if (count > v->elements)
    return ie_error_set(r->error, IE_UNSUPPORTED,
                        "%s: tensor %s: an expanded view, of more elements than its storage has", r->path,
                        ie_quote(name).text);
  v->info.bytes = count * ie_dtype_bytes(v->info.dtype); /* not more than the storage's */
  return IE_OK;
}

/* The elements follow each other in the order of the shape. */
static bool view_is_dense(const view *v) {
  int64_t expected = 1;
  for (int i = v->info.rank - 1; i >= 0; i--) {
    if (v->info.shape[i] != 1 && v->stride[i] != expected) return false;
    expected *= v->info.shape[i]; /* at most the number of elements */
  }
  return true;
}

/* Writes the elements in the order of the shape: an odometer over all dimensions. */
static void view_gather(const view *v, const uint8_t *from, uint8_t *to) {
  const size_t width = ie_dtype_bytes(v->info.dtype);
  int64_t at[IE_MAX_RANK] = {0};
  size_t source = 0;
  for (size_t n = v->info.bytes / width; n > 0; n--, to += width) {
    memcpy(to, from + source * width, width);
    for (int i = v->info.rank - 1; i >= 0; i--) {
      source += (size_t)v->stride[i];
      if (++at[i] < v->info.shape[i]) break;
      source -= (size_t)v->stride[i] * (size_t)v->info.shape[i];
      at[i] = 0;
    }
  }
}

static ie_status view_copy(const reader *r, view *v) {
  size_t bytes;
  if (v->info.bytes > r->size - r->out->copied_bytes)
    return ie_error_set(
        r->error, IE_UNSUPPORTED,
        "%s: tensor %s: it would have to be copied, and all copies would be larger than the file", r->path,
        ie_quote(v->info.name).text);
  if (!ie_size_add(v->info.bytes, 2 * COPY_ALIGN, &bytes)) return memory_error(r);
  ie_torch_copy *copy = aligned_alloc(COPY_ALIGN, bytes & ~(size_t)(COPY_ALIGN - 1));
  if (!copy) return memory_error(r);
  copy->next = r->out->copies;
  r->out->copies = copy;
  r->out->copied_bytes += v->info.bytes;
  uint8_t *to = (uint8_t *)copy + COPY_ALIGN;
  view_gather(v, v->info.data, to);
  v->info.data = to;
  return IE_OK;
}

/* One tensor of the dictionary. */
static ie_status tensor_read(const reader *r, const char *name, ie_pickle_value tensor) {
  const ie_pickle_value arguments = ie_pickle_arguments(r->pickle, tensor);
  const ie_pickle_value offset = ie_pickle_item(r->pickle, arguments, 1);
  view v = {.info = {.name = name, .file = r->path}};
  ie_status status = storage_read(r, ie_pickle_item(r->pickle, arguments, 0), &v);
  if (status != IE_OK) return status;
  if (offset.type != IE_PICKLE_INT || offset.number < 0)
    return tensor_bad(r, name, "its offset in the storage is no number from 0");
  v.first = (size_t)offset.number;
  status = view_read(r, ie_pickle_item(r->pickle, arguments, 2), ie_pickle_item(r->pickle, arguments, 3), &v);
  if (status != IE_OK) return status;
  const size_t width = ie_dtype_bytes(v.info.dtype);
  v.info.offset = v.storage->offset + (v.info.bytes ? v.first * width : 0);
  v.info.data = r->bytes + v.info.offset;
  if (v.info.bytes > 0 && (!view_is_dense(&v) || v.info.offset % width != 0)) status = view_copy(r, &v);
  return status == IE_OK ? ie_table_add(&r->out->table, &v.info, r->error) : status;
}

/* ---- the dictionary ---- */

static bool dict_is(const reader *r, ie_pickle_value value) {
  return value.type == IE_PICKLE_DICT ||
         (value.type == IE_PICKLE_OBJECT && ie_pickle_callable(r->pickle, value).number == ORDERED_DICT);
}

static bool dict_has_tensors(const reader *r, ie_pickle_value dict) {
  for (size_t i = 1; i < ie_pickle_count(r->pickle, dict); i += 2)
    if (tensor_of(r, ie_pickle_item(r->pickle, dict, i)).type != IE_PICKLE_NOTHING) return true;
  return false;
}

/* The dictionary of the tensors: the root, or what lies under one of the usual names of a training checkpoint. */
static ie_status dict_find(const reader *r, ie_pickle_value *out) {
  static const char *const names[] = {"model", "state_dict", "model_state_dict", "module"};
  const ie_pickle_value root = ie_pickle_root(r->pickle);
  if (!dict_is(r, root))
    return ie_error_set(r->error, IE_FORMAT, "%s: expected a dictionary of tensors, found something else",
                        r->path);
  *out = root;
  if (dict_has_tensors(r, root)) return IE_OK;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    const ie_pickle_value inner = ie_pickle_get(r->pickle, root, names[i]);
    if (!dict_is(r, inner) || !dict_has_tensors(r, inner)) continue;
    *out = inner;
    return IE_OK;
  }
  return ie_error_set(
      r->error, IE_FORMAT,
      "%s: there are no tensors in it, nor under model, state_dict, model_state_dict or module", r->path);
}

/* A copy of a tensor's name without torch.compile's prefix. Python's own names are ASCII; another could not be told
 * apart in a message, or break a line of it. */
static ie_status name_copy(const reader *r, ie_pickle_value key, char **out) {
  static const char compiled[] = "_orig_mod.";
  if (key.type != IE_PICKLE_TEXT)
    return ie_error_set(r->error, IE_FORMAT, "%s: a tensor whose name is no text", r->path);
  if (key.size > NAME_BYTES)
    return ie_error_set(r->error, IE_UNSUPPORTED,
                        "%s: the name of a tensor has %lld bytes, expected at most %d", r->path,
                        (long long)key.size, NAME_BYTES);
  for (size_t i = 0; i < key.size; i++)
    if (key.data[i] < 0x20 || key.data[i] > 0x7E)
      return ie_error_set(r->error, IE_UNSUPPORTED,
                          "%s: the name of a tensor has a character that is not printable ASCII", r->path);
  const size_t skip = key.size > sizeof compiled - 1 && memcmp(key.data, compiled, sizeof compiled - 1) == 0
                          ? sizeof compiled - 1
                          : 0;
  *out = strndup(key.data + skip, key.size - skip);
  return *out ? IE_OK : memory_error(r);
}

static ie_status dict_read(const reader *r, ie_pickle_value dict) {
  size_t names = 0;
  for (size_t i = 0; i + 1 < ie_pickle_count(r->pickle, dict); i += 2) {
    const ie_pickle_value tensor = tensor_of(r, ie_pickle_item(r->pickle, dict, i + 1));
    if (tensor.type == IE_PICKLE_NOTHING) continue;
    char *name = NULL;
    ie_status status = name_copy(r, ie_pickle_item(r->pickle, dict, i), &name);
    if (status == IE_OK) names += strlen(name);
    if (status == IE_OK && (r->out->table.count == TENSORS_MAX || names > NAMES_BYTES))
      status = ie_error_set(r->error, IE_UNSUPPORTED,
                            "%s: expected at most %d tensors, whose names have at most %d bytes together",
                            r->path, TENSORS_MAX, NAMES_BYTES);
    if (status == IE_OK) status = tensor_read(r, name, tensor);
    free(name);
    if (status != IE_OK) return status;
  }
  return ie_table_seal(&r->out->table, r->error);
}

/* ---- the archive ---- */

static bool starts_with(const reader *r, const char *bytes, size_t n) {
  return r->size >= n && memcmp(r->bytes, bytes, n) == 0;
}

/* Before 1.6 a file was a pickle of a magic number, 0x1950a86a20f9469cfc6c, or a tar archive. */
static ie_status kind_check(const reader *r) {
  static const char old[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
  if (starts_with(r, old, sizeof old - 1) || (r->size > 262 && memcmp(r->bytes + 257, "ustar", 5) == 0))
    return ie_error_set(
        r->error, IE_UNSUPPORTED,
        "%s: written in the format of PyTorch before 1.6: load it there and torch.save it anew", r->path);
  if (!starts_with(r, "PK", 2))
    return ie_error_set(r->error, IE_FORMAT,
                        "%s: expected a zip archive as torch.save writes it, found something else", r->path);
  return IE_OK;
}

/* Finds FOLDER/data.pkl, which names the archive's folder. */
static ie_status root_find(reader *r, const ie_zip_entry **pickle) {
  static const char tail[] = "data.pkl";
  *pickle = NULL;
  for (size_t i = 0; i < r->zip.count; i++) {
    const ie_zip_entry *e = &r->zip.entries[i];
    const char *slash = memchr(e->name, '/', e->name_size);
    size_t folder = slash ? (size_t)(slash - e->name) + 1 : 0;
    if (!slash || e->name_size != folder + sizeof tail - 1 ||
        memcmp(e->name + folder, tail, sizeof tail - 1) != 0)
      continue;
    if (*pickle)
      return ie_error_set(r->error, IE_FORMAT, "%s: two folders in the archive hold a data.pkl", r->path);
    *pickle = e;
    r->root = e->name;
    r->root_size = folder;
  }
  if (!*pickle) return ie_error_set(r->error, IE_FORMAT, "%s: there is no data.pkl in the archive", r->path);
  if (r->root_size > KEY_BYTES)
    return ie_error_set(r->error, IE_FORMAT, "%s: the name of the archive's folder is too long", r->path);
  if (entry_find(r, "constants.pkl", 13))
    return ie_error_set(r->error, IE_UNSUPPORTED,
                        "%s: a TorchScript program, expected a dictionary of tensors", r->path);
  return IE_OK;
}

static ie_status byteorder_check(const reader *r) {
  const ie_zip_entry *e = entry_find(r, "byteorder", 9);
  if (!e || (e->size == 6 && memcmp(r->bytes + e->offset, "little", 6) == 0)) return IE_OK;
  return ie_error_set(r->error, IE_UNSUPPORTED,
                      "%s: byteorder is not little: only little-endian checkpoints are read", r->path);
}

static ie_status archive_read(reader *r) {
  static const ie_pickle_rules rules = {.globals = globals, .what = "a checkpoint", .persistent = true};
  const ie_zip_entry *e = NULL;
  ie_pickle_value dict;
  ie_status status = kind_check(r);
  if (status == IE_OK) status = ie_zip_read(r->bytes, r->size, r->path, &r->zip, r->error);
  if (status == IE_OK) status = root_find(r, &e);
  if (status == IE_OK) status = byteorder_check(r);
  if (status == IE_OK)
    status = ie_pickle_read(r->bytes + e->offset, e->size, r->path, &rules, &r->pickle, r->error);
  if (status == IE_OK) status = dict_find(r, &dict);
  return status == IE_OK ? dict_read(r, dict) : status;
}

ie_status ie_torch_pt_parse(const void *bytes, size_t size, const char *path, ie_torch_pt *out,
                            ie_error *error) {
  *out = (ie_torch_pt){0};
  reader r = {.bytes = bytes, .size = size, .path = path, .out = out, .error = error};
  ie_status status = archive_read(&r);
  ie_pickle_free(r.pickle);
  ie_zip_free(&r.zip);
  if (status != IE_OK) ie_torch_pt_free(out);
  return status;
}

void ie_torch_copies_free(ie_torch_copy *copies) {
  while (copies) {
    ie_torch_copy *next = copies->next;
    free(copies);
    copies = next;
  }
}

void ie_torch_copies_move(ie_torch_copy **to, ie_torch_pt *from) {
  ie_torch_copy **end = &from->copies;
  while (*end) end = &(*end)->next;
  *end = *to;
  *to = from->copies;
  from->copies = NULL;
}

void ie_torch_pt_free(ie_torch_pt *pt) {
  ie_torch_copies_free(pt->copies);
  ie_table_free(&pt->table);
  *pt = (ie_torch_pt){0};
}
