/* PyTorch's files: what a pickle describes is found where it lies, and every kind of damage is refused with the file
 * and the place named. */
#include "formats/torch_pt.h"

#include "support/torch_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const char path[] = "some/model.bin";

/* A copy of exactly its size, so that a read behind it is seen by AddressSanitizer; aligned as a mapping is. */
static uint8_t *exact_copy(const void *bytes, size_t size) {
  uint8_t *copy = NULL;
  assert_int_equal(posix_memalign((void **)&copy, 64, size ? size : 1), 0);
  if (size) memcpy(copy, bytes, size);
  return copy;
}

typedef struct opened {
  uint8_t *bytes;
  size_t size;
  ie_torch_pt pt;
} opened;

/* Takes over zip. */
static opened open_zip(zip_writer *zip) {
  opened o = {.bytes = exact_copy(zip->bytes.data, zip->bytes.size), .size = zip->bytes.size};
  ie_error error = {0};
  zip_free(zip);
  if (ie_torch_pt_parse(o.bytes, o.size, path, &o.pt, &error) != IE_OK) fail_msg("%s", error.message);
  return o;
}

static void close_opened(opened *o) {
  ie_torch_pt_free(&o->pt);
  free(o->bytes);
}

static bool in_place(const opened *o, const ie_tensor_info *t) {
  const uint8_t *p = t->data;
  return p >= o->bytes && p + t->bytes <= o->bytes + o->size && p == o->bytes + t->offset;
}

/* Takes over zip; the message must name the file and hold `named`. */
static void refuse_zip(zip_writer *zip, ie_status want, const char *named) {
  uint8_t *bytes = exact_copy(zip->bytes.data, zip->bytes.size);
  ie_torch_pt pt;
  ie_error error = {0};
  ie_status status = ie_torch_pt_parse(bytes, zip->bytes.size, path, &pt, &error);
  if (status != want || !strstr(error.message, named) || !strstr(error.message, path))
    fail_msg("%s: '%s', expected %s with '%s'", ie_status_name(status), error.message, ie_status_name(want),
             named);
  assert_null(pt.table.tensors);
  assert_null(pt.copies);
  free(bytes);
  zip_free(zip);
  *zip = (zip_writer){0};
}

static const float numbers[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
static const torch_storage storage0 = {"0", numbers, sizeof numbers};

static void views_archive(zip_writer *zip, const torch_view *views, size_t count) {
  ie_buf pickle = {0};
  pickle_views(&pickle, views, count);
  torch_archive(zip, &pickle, &storage0, 1);
  ie_buf_free(&pickle);
}

/* ---- what is read ---- */

static void types_and_shapes_are_read_in_place(void **unused) {
  (void)unused;
  static const struct {
    const char *storage;
    ie_dtype dtype;
  } types[] = {{"FloatStorage", IE_F32},  {"HalfStorage", IE_F16}, {"BFloat16Storage", IE_BF16},
               {"DoubleStorage", IE_F64}, {"LongStorage", IE_I64}, {"IntStorage", IE_I32},
               {"ShortStorage", IE_I16},  {"CharStorage", IE_I8},  {"ByteStorage", IE_U8},
               {"BoolStorage", IE_BOOL}};
  for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
    const long long n = (long long)(sizeof numbers / ie_dtype_bytes(types[i].dtype));
    const torch_view views[] = {
        {"all", types[i].storage, "0", n, 0, 2, {2, n / 2}, {n / 2, 1}, false},
        {"tail", types[i].storage, "0", n, n - 2, 1, {2}, {1}, true},
        {"one", types[i].storage, "0", n, 1, 0, {0}, {0}, false},
        {"none", types[i].storage, "0", n, n, 2, {0, 5}, {5, 1}, false},
        {"row",
         types[i].storage,
         "0",
         n,
         2,
         3,
         {1, 2, 1},
         {77, 1, 99},
         false}, /* strides of 1 do not count */
    };
    zip_writer zip = {.wide = i % 2 == 1};
    views_archive(&zip, views, 5);
    opened o = open_zip(&zip);
    assert_int_equal(o.pt.table.count, 5);
    assert_int_equal(o.pt.copied_bytes, 0);
    for (size_t k = 0; k < 5; k++) {
      const ie_tensor_info *t = ie_table_find(&o.pt.table, views[k].name);
      assert_non_null(t);
      assert_int_equal(t->dtype, types[i].dtype);
      assert_int_equal(t->rank, views[k].rank);
      for (int d = 0; d < t->rank; d++) assert_int_equal(t->shape[d], views[k].shape[d]);
      assert_true(in_place(&o, t));
      assert_string_equal(t->file, path);
      assert_memory_equal(t->data,
                          (const uint8_t *)numbers +
                              (k == 3 ? 0 : (size_t)views[k].first * ie_dtype_bytes(t->dtype)),
                          t->bytes);
    }
    assert_int_equal(ie_table_find(&o.pt.table, "all")->bytes, sizeof numbers);
    assert_int_equal(ie_table_find(&o.pt.table, "all")->offset % 64, 0);
    assert_int_equal(ie_table_find(&o.pt.table, "one")->bytes, ie_dtype_bytes(types[i].dtype));
    assert_int_equal(ie_table_find(&o.pt.table, "none")->bytes, 0);
    close_opened(&o);
  }
}

static void strides_are_honoured(void **unused) {
  (void)unused;
  const torch_view views[] = {
      {"transposed", "FloatStorage", "0", 12, 0, 2, {4, 3}, {1, 4}, false},
      {"columns", "FloatStorage", "0", 12, 1, 2, {3, 2}, {4, 2}, false},
      {"permuted", "FloatStorage", "0", 12, 0, 3, {2, 2, 3}, {3, 6, 1}, false},
      {"again", "FloatStorage", "0", 12, 3, 1, {3}, {0}, false},
      {"plain", "FloatStorage", "0", 12, 0, 2, {3, 4}, {4, 1}, false},
  };
  static const float transposed[] = {0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}, columns[] = {1, 3, 5, 7, 9, 11};
  static const float permuted[] = {0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11}, again[] = {3, 3, 3};
  zip_writer zip = {0};
  views_archive(&zip, views, 5);
  opened o = open_zip(&zip);
  assert_memory_equal(ie_table_find(&o.pt.table, "transposed")->data, transposed, sizeof transposed);
  assert_memory_equal(ie_table_find(&o.pt.table, "columns")->data, columns, sizeof columns);
  assert_memory_equal(ie_table_find(&o.pt.table, "permuted")->data, permuted, sizeof permuted);
  assert_memory_equal(ie_table_find(&o.pt.table, "again")->data, again, sizeof again);
  assert_false(in_place(&o, ie_table_find(&o.pt.table, "transposed")));
  assert_true(in_place(&o, ie_table_find(&o.pt.table, "plain")));
  assert_int_equal((uintptr_t)ie_table_find(&o.pt.table, "permuted")->data % 64, 0);
  assert_int_equal(o.pt.copied_bytes, sizeof transposed + sizeof columns + sizeof permuted + sizeof again);
  close_opened(&o);
}

/* Storages that an old writer left unaligned are copied, not refused. */
static void unaligned_storages_are_copied(void **unused) {
  (void)unused;
  const torch_view view = {"w", "FloatStorage", "0", 12, 0, 1, {12}, {1}, false};
  ie_buf pickle = {0};
  zip_writer zip = {0};
  pickle_views(&pickle, &view, 1);
  zip_add(&zip, "archive/data/0", numbers, sizeof numbers, /*shift=*/2);
  zip_add(&zip, "archive/data.pkl", pickle.data, pickle.size, 0);
  zip_finish(&zip);
  ie_buf_free(&pickle);
  opened o = open_zip(&zip);
  const ie_tensor_info *t = ie_table_find(&o.pt.table, "w");
  assert_int_equal(t->offset % 4, 2);
  assert_int_equal((uintptr_t)t->data % 64, 0);
  assert_memory_equal(t->data, numbers, sizeof numbers);
  close_opened(&o);
}

/* Copies are at most as large as the file: many transposed views of one storage cannot fill the memory. */
static void copies_are_bounded(void **unused) {
  (void)unused;
  enum { SIDE = 64, VIEWS = 40 };
  static float square[SIDE * SIDE];
  torch_view views[VIEWS];
  char names[VIEWS][16];
  ie_buf pickle = {0};
  zip_writer zip = {0};
  for (int i = 0; i < VIEWS; i++) {
    snprintf(names[i], sizeof names[i], "w%d", i);
    views[i] = (torch_view){names[i], "FloatStorage", "0", SIDE * SIDE, 0, 2, {SIDE, SIDE}, {1, SIDE}, false};
  }
  pickle_views(&pickle, views, VIEWS);
  torch_archive(&zip, &pickle, &(torch_storage){"0", square, sizeof square}, 1);
  ie_buf_free(&pickle);
  refuse_zip(&zip, IE_UNSUPPORTED, "all copies would be larger than the file");
}

/* A pickle given as text with two tensors in it, "a" where %a stands and "b" where %b does. */
static void pickle_format(ie_buf *pickle, const char *format) {
  for (const char *p = format; *p; p++) {
    if (*p != '%') {
      ie_buf_append_char(pickle, *p);
      continue;
    }
    char name[2] = {*++p, 0};
    pickle_view(pickle, &(torch_view){name, "FloatStorage", "0", 12, 0, 1, {12}, {1}, false});
  }
}

static void nested_and_decorated_dictionaries_are_read(void **unused) {
  (void)unused;
  static const struct {
    const char *first; /* opcodes before the name of the inner dictionary, "" for none */
    const char *inner;
    const char *rest;
  } cases[] = {
      {"\x80\x02}(", "", "%a%bu."},
      {"\x80\x02"
       "ccollections\nOrderedDict\n)Rq\x01(",
       "", "%a%bu}b."}, /* with a state, as state_dict() leaves it */
      {"\x80\x04\x95\x01\x02\x03\x04\x05\x06\x07\x08}\x94(", "", "%a%bu."},
      {"\x80\x02}(", "model", "}(%a%buu."},
      {"\x80\x02}(", "state_dict", "}(%a%buu."},
      {"\x80\x02}(", "model_state_dict", "}(%a%buu."},
      {"\x80\x02}(", "module", "ccollections\nOrderedDict\n)R(%a%buu."},
      {"\x80\x02}", "model", "}%as%bss."},                               /* item by item */
      {"\x80\x02}(", "epoch", "K\x05%a%bu."},                            /* a number between tensors */
      {"\x80\x02}(", "note", "]N\x61%a%bu."},                            /* a list with None in it */
      {"\x80\x02}(", "loss", "G\x3f\xb9\x99\x99\x99\x99\x99\x9a%a%bu."}, /* a float */
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    ie_buf pickle = {0};
    zip_writer zip = {0};
    pickle_format(&pickle, cases[i].first);
    if (*cases[i].inner) pickle_text(&pickle, cases[i].inner);
    pickle_format(&pickle, cases[i].rest);
    torch_archive(&zip, &pickle, &storage0, 1);
    ie_buf_free(&pickle);
    opened o = open_zip(&zip);
    assert_int_equal(o.pt.table.count, 2);
    assert_non_null(ie_table_find(&o.pt.table, "a"));
    assert_non_null(ie_table_find(&o.pt.table, "b"));
    close_opened(&o);
  }
}

static void prefix_of_compiled_modules_is_dropped(void **unused) {
  (void)unused;
  const torch_view views[] = {{"_orig_mod.a", "FloatStorage", "0", 12, 0, 1, {12}, {1}, false},
                              {"x._orig_mod.b", "FloatStorage", "0", 12, 0, 1, {12}, {1}, false}};
  zip_writer zip = {0};
  views_archive(&zip, views, 2);
  opened o = open_zip(&zip);
  assert_non_null(ie_table_find(&o.pt.table, "a"));
  assert_non_null(ie_table_find(&o.pt.table, "x._orig_mod.b"));
  close_opened(&o);
}

/* ---- what is refused ---- */

#define PICKLE(s, status, named)                                                                             \
  { s, sizeof s - 1, status, named }

static const struct {
  const char *bytes;
  size_t size;
  ie_status status;
  const char *named;
} pickle_cases[] = {
    PICKLE("\x80\x02"
           "cos\nsystem\nX\x02\0\0\0id\x85R.",
           IE_UNSUPPORTED, "byte 2: os.system is not allowed in a checkpoint"),
    PICKLE("\x80\x02"
           "cposix\nsystem\n.",
           IE_UNSUPPORTED, "posix.system"),
    PICKLE("\x80\x04\x8c\x08"
           "builtins\x8c\x04"
           "eval\x93.",
           IE_UNSUPPORTED, "builtins.eval"),
    PICKLE("\x80\x02"
           "ctorch\nload\n.",
           IE_UNSUPPORTED, "torch.load"),
    PICKLE("\x80\x02"
           "ctorch._utils\n_rebuild_tensor\n.",
           IE_UNSUPPORTED, "torch._utils._rebuild_tensor is"),
    PICKLE("\x80\x02"
           "ctorch\nUntypedStorage\n.",
           IE_UNSUPPORTED, "torch.UntypedStorage"),
    PICKLE("(ios\nsystem\n.", IE_UNSUPPORTED, "opcode INST (0x69) at byte 1"),
    PICKLE("(cos\n", IE_FORMAT, "byte 1: it is cut"),
    PICKLE("\x80\x02(o.", IE_UNSUPPORTED, "OBJ"),
    PICKLE("\x80\x02I5\n.", IE_UNSUPPORTED, "INT (0x49)"),
    PICKLE("\x80\x02P5\n.", IE_UNSUPPORTED, "PERSID"),
    PICKLE("\x80\x02\x82\x01.", IE_UNSUPPORTED, "EXT1"),
    PICKLE("\x80\x02\x92.", IE_UNSUPPORTED, "NEWOBJ_EX"),
    PICKLE("\x80\x05\x97.", IE_UNSUPPORTED, "NEXT_BUFFER"),
    PICKLE("\x80\x02\xff.", IE_UNSUPPORTED, "opcode ? (0xFF) at byte 2"),
    PICKLE("\x80\x02}r\xff\xff\xff\x7f.", IE_FORMAT, "memo"),
    PICKLE("\x80\x02}q\x40.", IE_FORMAT, "memo"),
    PICKLE("\x80\x02}q\x03h\x01.", IE_FORMAT, "reference to nothing"),
    PICKLE("\x80\x02}j\x01\0\0\0.", IE_FORMAT, "reference to nothing"),
    PICKLE("\x80\x02q\x01.", IE_FORMAT, "nothing to remember"),
    PICKLE("\x80\x02t.", IE_FORMAT, "no mark"),
    PICKLE("\x80\x02K\x01\x86.", IE_FORMAT, "tuple"),
    PICKLE("\x80\x02(K\x01\x86.", IE_FORMAT, "tuple"),
    PICKLE("\x80\x02K\x01K\x02K\x03s.", IE_FORMAT, "items without a container"),
    PICKLE("\x80\x02}(K\x01u.", IE_FORMAT, "items without a container"),
    PICKLE("\x80\x02}K\x01"
           "a.",
           IE_FORMAT, "items without a container"),
    PICKLE("\x80\x02](K\x01K\x02u.", IE_FORMAT, "items without a container"),
    PICKLE("\x80\x02}K\x01\x85R.", IE_FORMAT, "object of no class"),
    PICKLE("\x80\x02}}b.", IE_FORMAT, "state of nothing"),
    PICKLE("\x80\x02Q.", IE_FORMAT, "reference without a name"),
    PICKLE("\x80\x04K\x01K\x02\x93.", IE_FORMAT, "class without a name"),
    PICKLE("\x80\x02\x8a\x09\1\2\3\4\5\6\7\x08\x09.", IE_FORMAT, "more than 64 bits"),
    PICKLE("\x80\x02X\xff\xff\xff\xff.", IE_FORMAT, "longer than the file"),
    PICKLE("\x80\x02}}.", IE_FORMAT, "one value"),
    PICKLE("\x80\x02.", IE_FORMAT, "one value"),
    PICKLE("\x80\x02(.", IE_FORMAT, "one value"),
    PICKLE("\x80\x02}", IE_FORMAT, "byte 3: it is cut"),
    PICKLE("", IE_FORMAT, "it is cut"),
    PICKLE("\x80\x02K\x05.", IE_FORMAT, "dictionary of tensors"),
    PICKLE("\x80\x02}.", IE_FORMAT, "no tensors"),
    PICKLE("\x80\x02}K\x05}s.", IE_FORMAT, "no tensors"),
    PICKLE("\x80\x02}K\x05"
           "ctorch\nFloatStorage\n)Rs.",
           IE_FORMAT, "no tensors"),
    PICKLE("\x80\x02}K\x05"
           "ctorch._utils\n_rebuild_tensor_v2\n)Rs.",
           IE_FORMAT, "name is no text"),
    PICKLE("\x80\x02}X\x02\0\0\0a\n"
           "ctorch._utils\n_rebuild_tensor_v2\n)Rs.",
           IE_UNSUPPORTED, "printable"),
    PICKLE("\x80\x02}X\x01\0\0\0a"
           "ctorch._utils\n_rebuild_tensor_v2\n)Rs.",
           IE_FORMAT, "tensor a: its storage is not described"),
    PICKLE("\x80\x02}X\x01\0\0\0a"
           "ctorch._utils\n_rebuild_tensor_v2\nK\x01Q\x85Rs.",
           IE_FORMAT, "tensor a: its storage is not described"),
    PICKLE("\x80\x02}X\x01\0\0\0a"
           "ctorch._utils\n_rebuild_parameter\nh\0\x85Rs.",
           IE_FORMAT, "reference to nothing"),
};

static void other_pickles_are_refused(void **unused) {
  (void)unused;
  for (size_t i = 0; i < sizeof pickle_cases / sizeof pickle_cases[0]; i++) {
    uint8_t *bytes =
        exact_copy(pickle_cases[i].bytes, pickle_cases[i].size); /* alone, so that the end is the end */
    const ie_buf pickle = {.data = (char *)bytes, .size = pickle_cases[i].size};
    zip_writer zip = {0};
    torch_archive(&zip, &pickle, &storage0, 1);
    free(bytes);
    refuse_zip(&zip, pickle_cases[i].status, pickle_cases[i].named);
  }
}

/* Deep nesting, and values that hold themselves: only memory in proportion to the file, no recursion. */
static void deep_and_circular_pickles_end(void **unused) {
  (void)unused;
  static const char *const shapes[] = {"]", "}", "("};
  for (int s = 0; s < 3; s++) {
    ie_buf pickle = {0};
    zip_writer zip = {0};
    ie_buf_append_str(&pickle, "\x80\x02");
    for (int i = 0; i < 300000; i++) ie_buf_append_str(&pickle, shapes[s]);
    for (int i = 0; s == 2 && i < 300000; i++) ie_buf_append_str(&pickle, "t");
    for (int i = 0; s == 0 && i < 299999; i++) ie_buf_append_str(&pickle, "a");
    ie_buf_append_str(&pickle, ".");
    torch_archive(&zip, &pickle, &storage0, 1);
    ie_buf_free(&pickle);
    refuse_zip(&zip, IE_FORMAT, s == 1 ? "one value" : "dictionary of tensors");
  }
  static const char circle[] = "\x80\x02}q\0X\x05\0\0\0modelh\0s."; /* {"model": itself} */
  const ie_buf pickle = {.data = (char *)(uintptr_t)circle, .size = sizeof circle - 1};
  zip_writer zip = {0};
  torch_archive(&zip, &pickle, &storage0, 1);
  refuse_zip(&zip, IE_FORMAT, "no tensors");
}

static void views_outside_their_storage_are_refused(void **unused) {
  (void)unused;
  static const struct {
    torch_view view;
    ie_status status;
    const char *named;
  } cases[] = {
      {{"w", "FloatStorage", "0", 12, 0, 1, {13}, {1}, false}, IE_FORMAT, "w: its elements lie beyond"},
      {{"w", "FloatStorage", "0", 12, 1, 1, {12}, {1}, false}, IE_FORMAT, "w: its elements lie beyond"},
      {{"w", "FloatStorage", "0", 12, 12, 0, {0}, {0}, false}, IE_FORMAT, "beyond"},
      {{"w", "FloatStorage", "0", 12, 0, 2, {4, 4}, {2, 1}, false}, IE_UNSUPPORTED, "expanded"},
      {{"w", "FloatStorage", "0", 12, 0, 2, {2, 2}, {11, 1}, false}, IE_FORMAT, "beyond"},
      {{"w", "FloatStorage", "0", 12, 0, 2, {1000000, 1000000}, {0, 0}, false}, IE_UNSUPPORTED, "expanded"},
      {{"w", "FloatStorage", "0", 12, -1, 1, {2}, {1}, false}, IE_FORMAT, "offset"},
      {{"w", "FloatStorage", "0", 12, INT64_MAX, 1, {2}, {1}, false}, IE_FORMAT, "beyond"},
      {{"w", "FloatStorage", "0", 12, 0, 1, {-2}, {1}, false}, IE_FORMAT, "shape or strides"},
      {{"w", "FloatStorage", "0", 12, 0, 1, {2}, {-1}, false}, IE_FORMAT, "shape or strides"},
      {{"w", "FloatStorage", "0", 12, 0, 2, {INT64_MAX, 4}, {0, 0}, false}, IE_FORMAT, "64 bits"},
      {{"w", "FloatStorage", "0", 12, 0, 2, {3, 3}, {INT64_MAX, INT64_MAX}, false}, IE_FORMAT, "beyond"},
      {{"w", "FloatStorage", "0", 12, 0, 9, {1}, {1}, false}, IE_UNSUPPORTED, "9 dimensions"},
      {{"w", "FloatStorage", "0", 11, 0, 1, {2}, {1}, false}, IE_FORMAT, "has 48 bytes, expected 11 of F32"},
      {{"w", "DoubleStorage", "0", 12, 0, 1, {2}, {1}, false}, IE_FORMAT, "expected 12 of F64"},
      {{"w", "FloatStorage", "0", -12, 0, 1, {2}, {1}, false}, IE_FORMAT, "not described"},
      {{"w", "DoubleStorage", "0", INT64_MAX, 0, 1, {2}, {1}, false}, IE_FORMAT, "48 bytes"},
      {{"w", "FloatStorage", "1", 12, 0, 1, {2}, {1}, false}, IE_FORMAT, "data/1 is not in the archive"},
      {{"w", "FloatStorage", "../byteorder", 12, 0, 1, {2}, {1}, false}, IE_FORMAT, "not in the archive"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    zip_writer zip = {0};
    views_archive(&zip, &cases[i].view, 1);
    refuse_zip(&zip, cases[i].status, cases[i].named);
  }
  char key[400];
  memset(key, 'k', sizeof key - 1);
  key[sizeof key - 1] = '\0';
  const torch_view twice[] = {{"w", "FloatStorage", "0", 12, 0, 1, {2}, {1}, false},
                              {"_orig_mod.w", "FloatStorage", "0", 12, 0, 1, {2}, {1}, false}};
  const torch_view with_key = {"w", "FloatStorage", key, 12, 0, 1, {2}, {1}, false};
  zip_writer zip = {0};
  views_archive(&zip, twice, 2);
  refuse_zip(&zip, IE_FORMAT, "tensor w stands there twice");
  views_archive(&zip, &with_key, 1);
  refuse_zip(&zip, IE_FORMAT, "too long");
}

/* ---- archives ---- */

static const torch_view plain = {"w", "FloatStorage", "0", 12, 0, 1, {12}, {1}, false};

/* The entries of an archive that would be good, the storage written by `zip` as it is set. */
static void refuse_entry(zip_writer zip, ie_status status, const char *named) {
  ie_buf pickle = {0};
  zip_writer good = {.wide = zip.wide};
  pickle_views(&pickle, &plain, 1);
  zip_add(&good, "m/data.pkl", pickle.data, pickle.size, 0);
  zip.bytes = good.bytes;
  zip.directory = good.directory;
  zip.count = good.count;
  zip_add(&zip, "m/data/0", numbers, sizeof numbers, 0);
  zip_finish(&zip);
  ie_buf_free(&pickle);
  refuse_zip(&zip, status, named);
}

static void other_archives_are_refused(void **unused) {
  (void)unused;
  refuse_entry((zip_writer){.method = 8}, IE_UNSUPPORTED, "m/data/0 of the zip archive: it is compressed");
  refuse_entry((zip_writer){.flags = 1}, IE_UNSUPPORTED, "encrypted");
  refuse_entry((zip_writer){.lie_stored = 5}, IE_FORMAT, "two sizes");
  refuse_entry((zip_writer){.lie_stored = 5, .wide = true}, IE_FORMAT, "two sizes");
  refuse_entry((zip_writer){.lie_size = 1}, IE_FORMAT, "beyond the archive");
  refuse_entry((zip_writer){.lie_size = 1 << 30}, IE_FORMAT, "beyond the archive");
  refuse_entry((zip_writer){.lie_size = -1}, IE_FORMAT, "47 bytes, expected 12 of F32");
  refuse_entry((zip_writer){.lie_size = INT64_MAX - 200, .wide = true}, IE_FORMAT, "beyond the archive");
  refuse_entry((zip_writer){.lie_offset = 4}, IE_FORMAT, "no entry where");
  refuse_entry((zip_writer){.lie_offset = 1 << 20}, IE_FORMAT, "no entry where");
  refuse_entry((zip_writer){.lie_offset = INT64_MAX - 4000, .wide = true}, IE_FORMAT, "no entry where");
  refuse_entry((zip_writer){.lie_name = true}, IE_FORMAT, "another name");
}

static void folders_of_archives_are_checked(void **unused) {
  (void)unused;
  static const struct {
    const char *names[4], *content;
    ie_status status;
    const char *named;
  } cases[] = {
      {{"m/data.pkl", "n/data.pkl"}, "", IE_FORMAT, "two folders"},
      {{"m/data.pkl", "m/constants.pkl"}, "", IE_UNSUPPORTED, "TorchScript"},
      {{"m/data.pkl", "m/byteorder"}, "big", IE_UNSUPPORTED, "little-endian"},
      {{"m/data.pkl", "m/x", "m/x"}, "", IE_FORMAT, "two of this name"},
      {{"data.pkl"}, "", IE_FORMAT, "no data.pkl"},
      {{"m/n/data.pkl"}, "", IE_FORMAT, "no data.pkl"},
      {{"m/version"}, "", IE_FORMAT, "no data.pkl"},
      {{NULL}, "", IE_FORMAT, "expected a zip archive"}, /* an empty archive starts with its end */
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    zip_writer zip = {0};
    for (int k = 0; k < 4 && cases[i].names[k]; k++)
      zip_add(&zip, cases[i].names[k], cases[i].content, strlen(cases[i].content), 0);
    zip_finish(&zip);
    refuse_zip(&zip, cases[i].status, cases[i].names[0] ? cases[i].named : "no data.pkl");
  }
}

static void overlapping_entries_are_refused(void **unused) {
  (void)unused;
  zip_writer zip = {0};
  ie_buf pickle = {0};
  pickle_views(&pickle, &plain, 1);
  zip_add(&zip, "m/data.pkl", pickle.data, pickle.size, 0);
  ie_buf_free(&pickle);
  zip_writer inner = {0}; /* an entry in an entry's data, in the directory as well */
  zip_add(&inner, "m/data/0", numbers, sizeof numbers, 0);
  zip_add(&zip, "m/outer", inner.bytes.data, inner.bytes.size, 0);
  inner.directory.data[42] = (char)(zip.bytes.size - inner.bytes.size);
  inner.directory.data[43] = (char)((zip.bytes.size - inner.bytes.size) >> 8);
  assert_true(ie_buf_append(&zip.directory, inner.directory.data, inner.directory.size));
  zip.count++;
  zip_finish(&zip);
  zip_free(&inner);
  refuse_zip(&zip, IE_FORMAT, "m/data/0 of the zip archive: it lies over another entry");
}

static void other_files_are_refused_by_name(void **unused) {
  (void)unused;
  static const char legacy[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
  char tar[512] = {0};
  memcpy(tar + 257, "ustar", 5);
  const struct {
    const char *bytes;
    size_t size;
    ie_status status;
    const char *named;
  } cases[] = {
      {legacy, sizeof legacy - 1, IE_UNSUPPORTED, "before 1.6"},
      {tar, sizeof tar, IE_UNSUPPORTED, "before 1.6"},
      {"", 0, IE_FORMAT, "expected a zip archive"},
      {"P", 1, IE_FORMAT, "expected a zip archive"},
      {"GGUF....................", 24, IE_FORMAT, "expected a zip archive"},
      {"PK\3\4", 4, IE_FORMAT, "cut"},
      {"PK\3\4....................................", 40, IE_FORMAT, "directory at its end"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    zip_writer zip = {0};
    ie_buf_append(&zip.bytes, cases[i].bytes, cases[i].size);
    refuse_zip(&zip, cases[i].status, cases[i].named);
  }
}

/* Fields of the record at the end, one at a time. */
static void ends_of_archives_are_checked(void **unused) {
  (void)unused;
  static const struct {
    bool wide;
    size_t from_end; /* of the byte that is set */
    uint8_t value;
    const char *named;
  } cases[] = {
      {false, 18, 1, "several disks"},     {false, 16, 1, "several disks"},
      {false, 11, 200, "too short"},       {false, 9, 200, "outside the file"},
      {false, 6, 9, "its directory"},      {true, 42, 0, "no such record"},
      {true, 34, 255, "not where"},        {true, 32, 1, "not where"},
      {true, 82, 1, "several disks"},      {true, 65, 200, "too short"},
      {true, 51, 255, "outside the file"}, {true, 43, 255, "outside the file"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    zip_writer zip = {.wide = cases[i].wide};
    views_archive(&zip, &plain, 1);
    uint8_t *byte = (uint8_t *)zip.bytes.data + zip.bytes.size - cases[i].from_end;
    if (*byte == cases[i].value) fail_msg("case %zu changes nothing", i);
    *byte = cases[i].value;
    refuse_zip(&zip, IE_FORMAT, cases[i].named);
  }
}

/* ---- small files that would take much memory ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const bool memory_limited = false; /* sanitizers need all addresses */
#else
static const bool memory_limited = true;
#endif

/* One name of `name_size` bytes and one tensor, both remembered, then used `uses` times more: 4 bytes each. */
static void repeated_name(zip_writer *zip, size_t name_size, size_t uses) {
  ie_buf pickle = {0}, one = {0};
  char *name = malloc(name_size + 1);
  assert_non_null(name);
  memset(name, 'n', name_size);
  name[name_size] = '\0';
  torch_view view = plain;
  view.name = "";
  pickle_view(&one, &view); /* begins with its name: X and four zeros */
  assert_true(ie_buf_append(&pickle, "\x80\x02}(", 4));
  pickle_text(&pickle, name);
  assert_true(ie_buf_append(&pickle, "q\0", 2) && ie_buf_append(&pickle, one.data + 5, one.size - 5) &&
              ie_buf_append(&pickle, "q\1", 2));
  for (size_t i = 0; i < uses; i++) assert_true(ie_buf_append(&pickle, "h\0h\1", 4));
  assert_true(ie_buf_append(&pickle, "u.", 2));
  torch_archive(zip, &pickle, &storage0, 1);
  ie_buf_free(&pickle);
  ie_buf_free(&one);
  free(name);
}

static void small_files_take_little_memory(void **unused) {
  (void)unused;
  static const struct {
    size_t name_size, uses;
    ie_status status;
    const char *named;
  } cases[] = {{1 << 20, 60000, IE_UNSUPPORTED, "1048576 bytes, expected at most 1024"},
               {1025, 1, IE_UNSUPPORTED, "1025 bytes"},
               {1024, 100000, IE_UNSUPPORTED, "67108864 bytes together"},
               {1, 300000, IE_UNSUPPORTED, "at most 262144 tensors"},
               {1024, 1, IE_FORMAT, "stands there twice"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    zip_writer zip = {0};
    repeated_name(&zip, cases[i].name_size, cases[i].uses);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
      const struct rlimit limit = {.rlim_cur = 512 << 20, .rlim_max = 512 << 20};
      ie_torch_pt pt;
      ie_error error = {0};
      if (memory_limited && setrlimit(RLIMIT_AS, &limit) != 0) _exit(2);
      ie_status status = ie_torch_pt_parse(zip.bytes.data, zip.bytes.size, path, &pt, &error);
      if (status == cases[i].status && strstr(error.message, cases[i].named)) _exit(0);
      fprintf(stderr, "case %zu: %s\n", i, error.message);
      _exit(1);
    }
    int ended;
    assert_int_equal(waitpid(child, &ended, 0), child);
    assert_true(WIFEXITED(ended));
    assert_int_equal(WEXITSTATUS(ended), 0);
    zip_free(&zip);
  }
}

/* ---- damage everywhere ---- */

/* An accepted file must keep its promises: every tensor readable. */
static void promises_hold(const ie_torch_pt *pt) {
  unsigned sum = 0;
  for (size_t i = 0; i < pt->table.count; i++) {
    const ie_tensor_info *t = &pt->table.tensors[i];
    for (size_t k = 0; k < t->bytes; k++) sum += ((const uint8_t *)t->data)[k];
    assert_true(t->rank >= 0 && t->rank <= IE_MAX_RANK && ie_dtype_bytes(t->dtype) > 0);
  }
  assert_true(sum < UINT32_MAX);
}

static void cut_and_flipped_files_are_answered(void **unused) {
  (void)unused;
  const torch_view views[] = {plain, {"t", "FloatStorage", "0", 12, 0, 2, {4, 3}, {1, 4}, true}};
  for (int wide = 0; wide < 2; wide++) {
    zip_writer zip = {.wide = wide};
    views_archive(&zip, views, 2);
    ie_torch_pt pt;
    for (size_t size = 0; size < zip.bytes.size; size++) {
      uint8_t *bytes = exact_copy(zip.bytes.data, size);
      ie_error error = {0};
      ie_status status = ie_torch_pt_parse(bytes, size, path, &pt, &error);
      if (status != IE_FORMAT || !strstr(error.message, path))
        fail_msg("cut at %zu: '%s'", size, error.message);
      free(bytes);
    }
    size_t accepted = 0;
    for (size_t bit = 0; bit < 8 * zip.bytes.size; bit++) {
      uint8_t *bytes = exact_copy(zip.bytes.data, zip.bytes.size);
      ie_error error = {0};
      bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
      if (ie_torch_pt_parse(bytes, zip.bytes.size, path, &pt, &error) == IE_OK) {
        promises_hold(&pt);
        ie_torch_pt_free(&pt);
        accepted++;
      } else if (!strstr(error.message, path)) {
        fail_msg("bit %zu: '%s'", bit, error.message);
      }
      free(bytes);
    }
    assert_true(accepted < 8 * zip.bytes.size); /* padding and numbers are not looked at; structure is */
    zip_free(&zip);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(types_and_shapes_are_read_in_place),
      cmocka_unit_test(strides_are_honoured),
      cmocka_unit_test(unaligned_storages_are_copied),
      cmocka_unit_test(copies_are_bounded),
      cmocka_unit_test(nested_and_decorated_dictionaries_are_read),
      cmocka_unit_test(prefix_of_compiled_modules_is_dropped),
      cmocka_unit_test(other_pickles_are_refused),
      cmocka_unit_test(deep_and_circular_pickles_end),
      cmocka_unit_test(views_outside_their_storage_are_refused),
      cmocka_unit_test(other_archives_are_refused),
      cmocka_unit_test(folders_of_archives_are_checked),
      cmocka_unit_test(overlapping_entries_are_refused),
      cmocka_unit_test(other_files_are_refused_by_name),
      cmocka_unit_test(ends_of_archives_are_checked),
      cmocka_unit_test(small_files_take_little_memory),
      cmocka_unit_test(cut_and_flipped_files_are_answered),
  };
  return cmocka_run_group_tests_name("torch_pt", tests, NULL, NULL);
}
