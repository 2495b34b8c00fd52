/* Data of training: documents and rows to ids and masks, the id file, orders, batches. */
#include "train/data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "clocher/tensor.h"
#include "clocher/text.h"
#include "support/chat_data.h"
#include "support/chat_formats.h"
#include "support/tempdir.h"
#include "train/id_build.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- what the tests read ---- */

typedef struct fixture {
  char *dir;
  ie_tokenizer *tokenizer; /* 4,000 ranks of o200k, with Harmony's special tokens */
  char text[300];          /* documents of 1 to 40 words */
  ie_data_options options; /* of that text: 4 rows of 16 */
} fixture;

enum { DOCUMENTS = 57 };

static int set_up(void **state) {
  fixture *f = calloc(1, sizeof *f);
  ie_buf text = {0};
  f->dir = tempdir_make();
  f->tokenizer = chat_tokenizer();
  for (int i = 0; i < DOCUMENTS; i++) {
    for (int k = 0; k <= i * 7 % 40; k++) ie_buf_printf(&text, "%s%d words of", k ? " " : "", i);
    ie_buf_append_str(&text, i % 5 == 0 ? "\r\n\n<|endoftext|>\n" : "\n<|endoftext|>\n");
  }
  snprintf(f->text, sizeof f->text, "%s", tempdir_write(f->dir, "text.txt", text.data, text.size));
  ie_buf_free(&text);
  f->options =
      (ie_data_options){.path = f->text, .tokenizer = f->tokenizer, .rows = 4, .length = 16, .seed = 7};
  *state = f;
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  ie_tokenizer_free(f->tokenizer);
  tempdir_remove(f->dir);
  free(f);
  return 0;
}

static ie_data *data_open(const ie_data_options *options) {
  ie_error error = {0};
  ie_data *data;
  if (ie_data_open(options, &data, &error) != IE_OK) fail_msg("%s", error.message);
  return data;
}

static void data_refused(const ie_data_options *options, ie_status status, const char *text) {
  ie_error error = {0};
  ie_data *data;
  assert_int_equal(ie_data_open(options, &data, &error), status);
  assert_null(data);
  if (!strstr(error.message, text)) fail_msg("expected '%s', found '%s'", text, error.message);
}

static ie_data_batch batch_next(ie_data *data) {
  ie_error error = {0};
  ie_data_batch batch;
  if (ie_data_next(data, &batch, &error) != IE_OK) fail_msg("%s", error.message);
  return batch;
}

/* ---- documents ---- */

static void documents_are(const char *text, const char *const *expected) {
  ie_documents documents = {.text = text, .size = strlen(text)};
  const char *document;
  size_t bytes;
  for (; ie_documents_next(&documents, &document, &bytes); expected++) {
    assert_non_null(*expected);
    assert_int_equal(bytes, strlen(*expected));
    assert_memory_equal(document, *expected, bytes);
  }
  assert_null(*expected);
}

static void test_documents(void **state) {
  (void)state;
  documents_are("", (const char *[]){NULL});
  documents_are("\n", (const char *[]){NULL});
  documents_are("a", (const char *[]){"a", NULL});
  documents_are("a\n\n", (const char *[]){"a\n", NULL});
  documents_are("a\n<|endoftext|>\nb\nc\n<|endoftext|>\n", (const char *[]){"a", "b\nc", NULL});
  documents_are("a\n<|endoftext|>\r\n<|endoftext|>\nb\n<|endoftext|>", (const char *[]){"a", "b", NULL});
  documents_are("a<|endoftext|>\n<|endoftext|> b\n <|endoftext|>\nc",
                (const char *[]){"a<|endoftext|>\n<|endoftext|> b\n <|endoftext|>\nc", NULL});
}

/* ---- batches ---- */

/* The ids of all documents in the order of the file. */
static ie_ids all_ids(fixture *f, int64_t index[DOCUMENTS + 1]) {
  ie_ids ids = {0};
  ie_map map;
  ie_id_file file;
  bool built;
  ie_error error = {0};
  if (ie_id_build(&f->options, &map, &file, &built, &error) != IE_OK) fail_msg("%s", error.message);
  assert_int_equal(file.header->documents, DOCUMENTS);
  for (int i = 0; i <= DOCUMENTS; i++) index[i] = (int64_t)file.index[i];
  for (int64_t i = 0; i < index[DOCUMENTS]; i++) {
    int32_t id = ie_id_file_token(&file, i);
    ie_ids_append(&ids, &id, 1, NULL);
  }
  ie_map_close(&map);
  return ids;
}

static void test_tokens(void **state) {
  fixture *f = *state;
  int64_t index[DOCUMENTS + 1];
  ie_ids all = all_ids(f, index), direct = {0};
  const int32_t end = ie_tokenizer_special_id(f->tokenizer, "<|endoftext|>");
  assert_true(end > 0);
  for (int i = 0; i < DOCUMENTS; i++) {
    ie_buf text = {0};
    for (int k = 0; k <= i * 7 % 40; k++) ie_buf_printf(&text, "%s%d words of", k ? " " : "", i);
    if (i % 5 == 0) ie_buf_append_str(&text, "\r\n");
    assert_int_equal(ie_tokenizer_encode(f->tokenizer, text.data, text.size, NULL, &direct, NULL), IE_OK);
    ie_ids_append(&direct, &end, 1, NULL);
    assert_int_equal(direct.count, index[i + 1]);
    ie_buf_free(&text);
  }
  assert_int_equal(all.count, direct.count);
  assert_memory_equal(all.ids, direct.ids, all.count * 4);
  ie_ids_free(&all);
  ie_ids_free(&direct);
}

/* A stream is the documents of the epoch, each once, one after the other; the next epoch has another order. */
static void test_stream(void **state) {
  fixture *f = *state;
  int64_t index[DOCUMENTS + 1];
  ie_ids all = all_ids(f, index);
  ie_data *data = data_open(&f->options);
  ie_data_info info = ie_data_get_info(data);
  assert_false(info.built); /* by all_ids, and used again */
  assert_int_equal(info.tokens, all.count);
  assert_int_equal(info.epoch_slots, all.count);
  ie_ids read = {0};
  int32_t waiting = -1;
  while (read.count < 2 * all.count) {
    ie_data_batch batch = batch_next(data);
    assert_int_equal(batch.rows, 4);
    assert_int_equal(batch.sequences, 4);
    assert_int_equal(batch.global_targets, 64);
    for (int i = 0; i < 64; i++) {
      if (waiting >= 0) assert_int_equal(batch.ids[i], waiting);
      waiting = batch.targets[i];
      assert_int_equal(batch.sequence[i], i / 16);
      assert_int_equal(batch.position[i], i % 16);
      if (i % 16 < 15) assert_int_equal(batch.targets[i], batch.ids[i + 1]);
    }
    ie_ids_append(&read, batch.ids, 64, NULL);
  }
  int order[2][DOCUMENTS];
  for (int epoch = 0; epoch < 2; epoch++) {
    size_t at = (size_t)epoch * all.count, end = at + all.count;
    bool seen[DOCUMENTS] = {0};
    for (int n = 0; n < DOCUMENTS; n++) {
      int found = -1; /* documents begin with their number, so that no two begin alike */
      for (int i = 0; i < DOCUMENTS && found < 0; i++) {
        size_t count = (size_t)(index[i + 1] - index[i]);
        if (!seen[i] && at + count <= end && !memcmp(read.ids + at, all.ids + index[i], count * 4)) found = i;
      }
      assert_true(found >= 0);
      seen[found] = true;
      order[epoch][n] = found;
      at += (size_t)(index[found + 1] - index[found]);
    }
    assert_int_equal(at, end);
  }
  assert_memory_not_equal(order[0], order[1], sizeof order[0]);
  ie_data_free(data);
  ie_ids_free(&read);
  ie_ids_free(&all);
}

/* What is computed is the batch without what stands behind the last document of a row; returns how much that is. */
static int64_t dense_check(const ie_data_batch *batch) {
  int64_t left_out = 0;
  for (int64_t b = 0; b < batch->rows; b++) {
    const ie_token_rows rows = ie_data_rows(batch, b, 1);
    int64_t from = b * batch->length;
    size_t bytes = (size_t)rows.tokens * sizeof(int32_t);
    assert_in_range(rows.tokens, 0, batch->length);
    assert_memory_equal(rows.ids, batch->ids + from, bytes);
    assert_memory_equal(rows.target, batch->targets + from, bytes);
    assert_memory_equal(rows.position, batch->position + from, bytes);
    assert_memory_equal(rows.sequence, batch->sequence + from, bytes);
    for (int64_t i = rows.tokens; i < batch->length; i++) assert_int_equal(batch->targets[from + i], -1);
    left_out += batch->length - rows.tokens;
  }
  assert_int_equal(ie_data_rows(batch, 0, batch->rows).tokens, batch->rows * batch->length - left_out);
  return left_out;
}

/* Each token but the first of its document is a target once an epoch, of the token before it, in a sequence that holds
 * nothing else. */
static void packed_check(fixture *f, ie_data_layout layout, int64_t piece_tok) {
  int64_t index[DOCUMENTS + 1];
  ie_ids all = all_ids(f, index);
  f->options.layout = layout;
  f->options.piece_tok = piece_tok;
  ie_data *data = data_open(&f->options);
  int64_t targets = 0, sequences = 0, padding = 0;
  while (ie_data_get_position(data).epoch == 0) {
    ie_data_batch batch = batch_next(data);
    padding += dense_check(&batch);
    assert_int_equal(batch.sequence[0], 0);
    for (int64_t i = 0; i < 64; i++) {
      bool begins = i == 0 || batch.sequence[i] != batch.sequence[i - 1];
      if (i % 16 == 0) assert_true(begins);
      if (i) assert_int_equal(batch.sequence[i], batch.sequence[i - 1] + begins);
      assert_int_equal(batch.position[i], begins ? 0 : batch.position[i - 1] + 1);
      if (!begins && batch.targets[i - 1] >= 0) assert_int_equal(batch.ids[i], batch.targets[i - 1]);
      targets += batch.targets[i] >= 0;
    }
    sequences += batch.sequences;
    assert_int_equal(batch.sequence[63] + 1, batch.sequences);
    assert_int_equal(batch.target_count, batch.global_targets);
    if (layout == IE_DATA_PACKED) assert_int_equal(batch.target_count, 64);
  }
  ie_data_info info = ie_data_get_info(data);
  assert_in_range(targets, info.epoch_slots, info.epoch_slots + 64);
  assert_true(sequences >= DOCUMENTS);
  assert_true((padding > 0) == (layout == IE_DATA_WHOLE));
  if (layout == IE_DATA_PACKED) assert_int_equal(info.epoch_slots, (int64_t)all.count - DOCUMENTS);
  ie_data_free(data);
  ie_ids_free(&all);
}

static void test_packed(void **state) {
  fixture f = *(fixture *)*state;
  packed_check(&f, IE_DATA_PACKED, 0);
  packed_check(&f, IE_DATA_PACKED, 16);
  packed_check(&f, IE_DATA_PACKED, 5);
  packed_check(&f, IE_DATA_WHOLE, 0);
}

/* Once, packed: every token of the file but the first of each document is a target, in order, and then nothing. */
static void test_once(void **state) {
  fixture f = *(fixture *)*state;
  int64_t index[DOCUMENTS + 1];
  ie_ids all = all_ids(&f, index), wanted = {0}, found = {0};
  for (int i = 0; i < DOCUMENTS; i++)
    ie_ids_append(&wanted, all.ids + index[i] + 1, (size_t)(index[i + 1] - index[i] - 1), NULL);
  f.options.once = true;
  for (int layout = IE_DATA_STREAM; layout <= IE_DATA_PACKED; layout++) {
    f.options.layout = (ie_data_layout)layout;
    ie_data *data = data_open(&f.options);
    found.count = 0;
    for (;;) {
      ie_data_batch batch = batch_next(data);
      if (batch.rows == 0) break;
      assert_int_equal(batch.sequence[63] + 1, batch.sequences);
      for (int i = 0; i < 64; i++)
        if (batch.targets[i] >= 0) ie_ids_append(&found, &batch.targets[i], 1, NULL);
      for (int i = 1; i < 64; i++) assert_in_range(batch.sequence[i] - batch.sequence[i - 1], 0, 1);
    }
    assert_int_equal(batch_next(data).rows, 0);
    ie_data_position end = ie_data_get_position(data);
    assert_int_equal(ie_data_seek(data, (ie_data_position){0}, NULL), IE_OK);
    assert_int_equal(batch_next(data).rows, 4);
    assert_int_equal(ie_data_seek(data, end, NULL), IE_OK);
    assert_int_equal(batch_next(data).rows, 0);
    const ie_ids *expected = layout == IE_DATA_STREAM ? &all : &wanted;
    size_t skip = layout == IE_DATA_STREAM; /* the first token of all follows none */
    assert_int_equal(found.count, expected->count - skip);
    assert_memory_equal(found.ids, expected->ids + skip, found.count * 4);
    ie_data_free(data);
  }
  ie_ids_free(&all);
  ie_ids_free(&wanted);
  ie_ids_free(&found);
}

/* A document that fits is never cut; one that is too long fills a row and loses the rest. */
static void test_whole(void **state) {
  fixture f = *(fixture *)*state;
  static const char rows[] = "a b c\n<|endoftext|>\na b c d\n<|endoftext|>\n"
                             "a b c d e f g h i j k l m n o p q r s t u v w x y z\n<|endoftext|>\nend";
  f.options.path = tempdir_write_text(f.dir, "whole.txt", rows);
  f.options.layout = IE_DATA_WHOLE;
  f.options.once = true;
  f.options.length = 6;
  f.options.rows = 5;
  static const int32_t sequence[] = {0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4, 4,
                                     4, 4, 4, 5, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7};
  static const int targets[] = {3, 0, 4, 0, 6, 1, 0, 0};
  ie_data *data = data_open(&f.options);
  ie_data_info info = ie_data_get_info(data);
  assert_int_equal(info.epoch_slots, 14);
  assert_int_equal(info.cut_documents, 1);
  assert_int_equal(info.cut_tokens, 20); /* 26 letters and the end: 26 targets, 6 of them in the row */
  assert_false(info.masked);
  ie_data_batch batch = batch_next(data);
  assert_int_equal(batch.sequences, 8);
  assert_memory_equal(batch.sequence, sequence, sizeof sequence);
  int count[8] = {0};
  for (int i = 0; i < 30; i++) count[sequence[i]] += batch.targets[i] >= 0;
  assert_memory_equal(count, targets, sizeof targets);
  assert_int_equal(batch_next(data).rows, 0);
  ie_data_free(data);
}

/* All targets of a source that is read once. */
static int64_t targets_once(const ie_data_options *options, ie_data_info *info) {
  ie_data *data = data_open(options);
  int64_t targets = 0;
  for (ie_data_batch batch; (batch = batch_next(data)).rows > 0;) targets += batch.global_targets;
  *info = ie_data_get_info(data);
  ie_data_free(data);
  return targets;
}

/* Text loses nothing where that is asked for, as text or as rows of text; conversations and completions stay whole. */
static void test_text_packed(void **state) {
  fixture f = *(fixture *)*state;
  f.options.layout = IE_DATA_WHOLE;
  f.options.once = f.options.text_packed = true;
  f.options.length = 3;
  static const char *const sources[][2] = {
      {"long.txt", "a b c d e f g h\n<|endoftext|>\ni j k l m"},
      {"long.jsonl", "{\"text\":\"a b c d e f g h\"}\n{\"text\":\"i j k l m\"}"}};
  ie_data_info info;
  for (int i = 0; i < 2; i++) {
    f.options.path = tempdir_write_text(f.dir, sources[i][0], sources[i][1]);
    int64_t targets = targets_once(&f.options, &info);
    assert_int_equal(targets, info.tokens - 2);
    assert_false(info.masked);
    assert_int_equal(info.cut_tokens, 0);
  }
  f.options.path =
      tempdir_write_text(f.dir, "answer.jsonl", "{\"prompt\":\"a b\",\"completion\":\" c d e f g h\"}");
  assert_int_equal(targets_once(&f.options, &info), 2);
  assert_true(info.masked);
  assert_int_equal(info.cut_documents, 1);
  assert_int_equal(info.cut_tokens, info.tokens - 1 - 3);
}

/* The same ids have the same checksum, others another, however long they are. */
static void test_checksum(void **state) {
  fixture f = *(fixture *)*state;
  ie_data_info first, again, other;
  f.options.once = true;
  f.options.path = tempdir_write_text(f.dir, "sum.txt", "one two one");
  targets_once(&f.options, &first);
  targets_once(&f.options, &again);
  f.options.path = tempdir_write_text(f.dir, "sum.txt", "one two two");
  targets_once(&f.options, &other);
  assert_true(first.checksum == again.checksum && first.checksum != other.checksum);
  assert_int_equal(first.tokens, other.tokens);
}

/* The rows of n processes, one below the other, are those of one process. */
static void test_processes(void **state) {
  fixture f = *(fixture *)*state;
  f.options.rows = 7;
  for (int layout = IE_DATA_STREAM; layout <= IE_DATA_WHOLE; layout++) {
    f.options.layout = (ie_data_layout)layout;
    f.options.ranks = 0;
    f.options.rank = 0;
    f.options.threads = 1;
    ie_data *whole = data_open(&f.options);
    for (int ranks = 2; ranks <= 7; ranks++) {
      assert_int_equal(ie_data_seek(whole, (ie_data_position){0}, NULL), IE_OK);
      ie_data *part[7];
      for (int r = 0; r < ranks; r++) {
        f.options.rank = r;
        f.options.ranks = ranks;
        f.options.threads = 2;
        part[r] = data_open(&f.options);
      }
      for (int step = 0; step < 40; step++) {
        ie_data_batch all = batch_next(whole);
        int64_t at = 0, targets = 0;
        for (int r = 0; r < ranks; r++) {
          ie_data_batch own = batch_next(part[r]);
          size_t bytes = (size_t)(own.rows * own.length) * 4;
          assert_memory_equal(own.ids, all.ids + at, bytes);
          assert_memory_equal(own.targets, all.targets + at, bytes);
          assert_memory_equal(own.position, all.position + at, bytes);
          for (int64_t i = 0; i < own.rows * own.length; i++)
            assert_int_equal(own.sequence[i], all.sequence[at + i] - all.sequence[at]);
          assert_int_equal(own.global_targets, all.global_targets);
          at += own.rows * own.length;
          targets += own.target_count;
        }
        assert_int_equal(at, 7 * 16);
        assert_int_equal(targets, all.global_targets);
      }
      for (int r = 0; r < ranks; r++) ie_data_free(part[r]);
    }
    ie_data_free(whole);
  }
}

/* A reader that is set where another one stands gives the same batches; a place that is none is refused. */
static void test_resume(void **state) {
  fixture f = *(fixture *)*state;
  for (int layout = IE_DATA_STREAM; layout <= IE_DATA_WHOLE; layout++)
    for (int64_t piece_tok = 0; piece_tok <= (layout ? 9 : 0); piece_tok += 9) {
      f.options.layout = (ie_data_layout)layout;
      f.options.piece_tok = piece_tok;
      ie_data *first = data_open(&f.options), *second = data_open(&f.options);
      for (int step = 0; step < 160; step++) {
        assert_int_equal(ie_data_seek(second, ie_data_get_position(first), NULL), IE_OK);
        ie_data_batch a = batch_next(first), b = batch_next(second);
        assert_memory_equal(a.ids, b.ids, 64 * 4);
        assert_memory_equal(a.targets, b.targets, 64 * 4);
        assert_memory_equal(a.sequence, b.sequence, 64 * 4);
        assert_memory_equal(a.position, b.position, 64 * 4);
      }
      assert_true(ie_data_get_position(first).epoch > 0);
      ie_data_position before = ie_data_get_position(second);
      static const ie_data_position none[] = {
          {-1, 0, 0}, {0, -1, 0}, {0, 0, -1}, {0, 1 << 20, 0}, {0, 0, 1 << 20}};
      for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        ie_error error = {0};
        assert_int_equal(ie_data_seek(second, none[i], &error), IE_INVALID_ARGUMENT);
        assert_non_null(strstr(error.message, "another run"));
      }
      ie_data_position after = ie_data_get_position(second);
      assert_memory_equal(&before, &after, sizeof before);
      ie_data_free(first);
      ie_data_free(second);
    }
}

static void test_seed(void **state) {
  fixture f = *(fixture *)*state;
  int32_t ids[2][64];
  for (int i = 0; i < 2; i++) {
    f.options.seed = (uint64_t)i;
    ie_data *data = data_open(&f.options);
    memcpy(ids[i], batch_next(data).ids, sizeof ids[i]);
    ie_data_free(data);
  }
  assert_memory_not_equal(ids[0], ids[1], sizeof ids[0]);
}

static void test_data_ids(void **state) {
  fixture f = *(fixture *)*state;
  int32_t ids[3 * 2 * 5];
  for (int i = 0; i < 30; i++) ids[i] = i;
  const ie_tensor_out tensor = {"data", IE_I32, 3, {3, 2, 5}, ids};
  const char *path = tempdir_path(f.dir, "ids.safetensors");
  assert_int_equal(ie_tensor_file_write(path, &tensor, 1, NULL), IE_OK);
  ie_data_options options = {.data_ids = path};
  ie_data *data = data_open(&options);
  assert_int_equal(ie_data_get_info(data).steps, 3);
  for (int step = 0; step < 3; step++) {
    assert_int_equal(ie_data_get_position(data).document, step);
    ie_data_batch batch = batch_next(data);
    assert_int_equal(batch.rows, 2);
    assert_int_equal(batch.length, 5);
    assert_int_equal(batch.global_targets, 8);
    for (int i = 0; i < 10; i++) {
      assert_int_equal(batch.ids[i], step * 10 + i);
      assert_int_equal(batch.targets[i], i % 5 == 4 ? -1 : step * 10 + i + 1);
      assert_int_equal(batch.sequence[i], i / 5);
      assert_int_equal(batch.position[i], i % 5);
    }
  }
  assert_int_equal(batch_next(data).rows, 0);
  assert_int_equal(ie_data_seek(data, (ie_data_position){0, 1, 0}, NULL), IE_OK);
  assert_int_equal(batch_next(data).ids[0], 10);
  ie_data_free(data);
  options.rank = 1;
  options.ranks = 2;
  data = data_open(&options);
  assert_int_equal(batch_next(data).ids[0], 5);
  ie_data_free(data);
  options.ranks = 3;
  data_refused(&options, IE_INVALID_ARGUMENT, "at least one row");
  options = (ie_data_options){.data_ids = path, .rows = 3};
  data_refused(&options, IE_INVALID_ARGUMENT, "2 rows of 5 tokens, 3 rows of 5");
  ids[7] = -1;
  assert_int_equal(ie_tensor_file_write(path, &tensor, 1, NULL), IE_OK);
  options.rows = 0;
  data_refused(&options, IE_FORMAT, "the id -1");
  /* no ids at all, of a shape whose product is not a number */
  const ie_tensor_out huge = {"data", IE_I32, 3, {0, (int64_t)1 << 40, (int64_t)1 << 40}, ids};
  assert_int_equal(ie_tensor_file_write(path, &huge, 1, NULL), IE_OK);
  data_refused(&options, IE_INVALID_ARGUMENT, "expected 1 to 2147483647");
}

/* ---- rows with masks ---- */

/* The text of the targets of one row, between bars. */
static char *targets_text(const ie_tokenizer *tokenizer, const ie_data_options *options) {
  ie_data *data = data_open(options);
  ie_data_batch batch = batch_next(data);
  ie_bytes text = {0};
  for (int64_t i = 0; i < batch.length; i++) {
    bool on = batch.targets[i] >= 0, before = i && batch.targets[i - 1] >= 0;
    if (on != before) ie_bytes_append(&text, "|", 1, NULL);
    if (on) assert_int_equal(ie_tokenizer_decode(tokenizer, &batch.targets[i], 1, false, &text, NULL), IE_OK);
  }
  assert_true(batch.targets[batch.length - 1] < 0);
  ie_data_free(data);
  return text.data ? text.data : strdup("");
}

typedef struct mask_case {
  const char *format; /* NULL: none */
  const char *row, *targets;
} mask_case;

#define TWO_TURNS                                                                                            \
  "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi "                                                      \
  "<|end|>\"},{\"role\":\"assistant\",\"content\":\"Ho\"},"                                                  \
  "{\"role\":\"user\",\"content\":\"Why\"},{\"role\":\"assistant\",\"content\":\"So\"}]}"
#define ONE_CALL                                                                                             \
  "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"content\":\"\","          \
  "\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"name\":"      \
  "\"f\","                                                                                                   \
  "\"content\":\"4\"},{\"role\":\"assistant\",\"content\":\"It is 4\"}]}"

static const mask_case mask_cases[] = {
    {NULL, "{\"text\":\"abc\"}", "|c<|endoftext|>|"}, /* the first token, ab, follows none */
    {NULL, "{\"prompt\":\"abc\",\"completion\":\" def\"}", "| def<|endoftext|>|"},
    {"harmony", TWO_TURNS, "|<|channel|>final<|message|>Ho||<|channel|>final<|message|>So<|return|>|"},
    {"harmony", ONE_CALL,
     "| to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>|"
     "|<|channel|>final<|message|>It is 4<|return|>|"},
    {"harmony",
     "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"thinking\":\"Hm\","
     "\"content\":\"Ho\"}]}",
     "|<|channel|>analysis<|message|>Hm<|end|>||<|channel|>final<|message|>Ho<|return|>|"},
    {"qwen2.5", TWO_TURNS, "|Ho<|im_end|>||So<|im_end|>|"},
    {"qwen3", TWO_TURNS, "|Ho<|im_end|>||<think>\n\n</think>\n\nSo<|im_end|>|"},
    {"llama3.1", TWO_TURNS, "|Ho<|eot_id|>||So<|eot_id|>|"},
    {"llama3.2", TWO_TURNS, "|Ho<|eot_id|>||So<|eot_id|>|"},
    {"nanochat", TWO_TURNS, "|Ho<|assistant_end|>||So<|assistant_end|>|"},
    {"c2c", TWO_TURNS, "| Ho### Human:|| So|"}, /* the next turn's marker ends an answer */
};

static void test_masks(void **state) {
  fixture f = *(fixture *)*state;
  for (size_t i = 0; i < sizeof mask_cases / sizeof mask_cases[0]; i++) {
    const mask_case *c = &mask_cases[i];
    ie_tokenizer *tokenizer = NULL;
    const ie_chat_format *format = NULL;
    if (c->format) assert_int_equal(ie_chat_format_find(c->format, &format, NULL), IE_OK);
    for (const chat_sample *s = chat_samples; c->format && s->name; s++)
      if (strcmp(s->name, c->format) == 0) tokenizer = chat_sample_tokenizer(s);
    if (!tokenizer) tokenizer = chat_tokenizer();
    char name[40];
    snprintf(name, sizeof name, "row%zu.jsonl", i);
    ie_data_options options = {.path = tempdir_write_text(f.dir, name, c->row),
                               .tokenizer = tokenizer,
                               .format = format,
                               .layout = IE_DATA_WHOLE,
                               .rows = 1,
                               .length = 400,
                               .once = true};
    char *text = targets_text(tokenizer, &options);
    if (strcmp(text, c->targets) != 0)
      fail_msg("%s of %s: expected %s, found %s", c->row, c->format ? c->format : "none", c->targets, text);
    free(text);
    ie_tokenizer_free(tokenizer);
  }
}

static void test_rows_refused(void **state) {
  fixture f = *(fixture *)*state;
  static const char *const cases[][2] = {
      {"{\"text\":\"a\"}\n\n{\"text\":", "line 3"},
      {"[1]\n", "line 1: expected an object with"},
      {"{\"text\":\"a\"}\n{\"prompt\":\"a\"}\n", "line 2: expected an object with"},
      {"{\"text\":3}\n", "found other keys"},
      {TWO_TURNS, "line 1: a row with messages, and the model's chat format is not known"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    f.options.path = tempdir_write_text(f.dir, "bad.jsonl", cases[i][0]);
    data_refused(&f.options, i == 4 ? IE_UNSUPPORTED : IE_FORMAT, cases[i][1]);
    f.options.format = i == 3 ? NULL : chat_harmony();
  }
  f.options.format = chat_harmony();
  f.options.path =
      tempdir_write_text(f.dir, "bad.jsonl", "{\"messages\":[{\"role\":\"wizard\",\"content\":\"\"}]}");
  data_refused(&f.options, IE_FORMAT, "wizard");
}

/* ---- the cache ---- */

/* The one *.ids in a folder. */
static char *ids_path(const ie_data_options *options) {
  ie_data *data = data_open(options);
  char *path = strdup(ie_data_get_info(data).id_file);
  ie_data_free(data);
  return path;
}

static bool is_built(const ie_data_options *options) {
  ie_data *data = data_open(options);
  bool built = ie_data_get_info(data).built;
  ie_data_free(data);
  return built;
}

static void test_cache(void **state) {
  fixture f = *(fixture *)*state;
  char folder[300];
  snprintf(folder, sizeof folder, "%s/cache/data", f.dir);
  f.options.cache_dir = folder;
  f.options.path = tempdir_write_text(f.dir, "cached.txt", "one two\n<|endoftext|>\nthree");
  assert_true(is_built(&f.options));
  assert_false(is_built(&f.options));
  f.options.path = tempdir_write_text(f.dir, "cached.txt", "one two\n<|endoftext|>\nthrae");
  assert_true(is_built(&f.options)); /* as long, another text */
  assert_false(is_built(&f.options));
  char *path = ids_path(&f.options);
  assert_memory_equal(path, folder, strlen(folder));
  assert_true(f.options.end_token == NULL);
  f.options.end_token = "<|end|>";
  assert_true(is_built(&f.options)); /* beside the other one */
  assert_false(is_built(&f.options));
  f.options.end_token = NULL;
  assert_false(is_built(&f.options));
  f.options.end_token = "<|nothing|>";
  data_refused(&f.options, IE_INVALID_ARGUMENT, "<|nothing|>");
  f.options.end_token = NULL;
  /* the file itself is a source */
  ie_data_options direct = {.path = path, .tokenizer = f.tokenizer, .rows = 1, .length = 4};
  assert_false(is_built(&direct));
  /* another tokenizer */
  ie_tokenizer *other = chat_sample_tokenizer(&chat_samples[0]);
  direct.tokenizer = f.options.tokenizer = other;
  data_refused(&direct, IE_FORMAT, "another tokenizer");
  f.options.end_token = "<|endoftext|>";
  ie_tokenizer_free(other);
  f.options.tokenizer = f.tokenizer;
  /* damage is mended, in the cache only */
  int fd = truncate(path, 100);
  assert_int_equal(fd, 0);
  direct.tokenizer = f.tokenizer;
  data_refused(&direct, IE_FORMAT, "id file");
  f.options.end_token = NULL;
  assert_true(is_built(&f.options));
  assert_false(is_built(&direct));
  free(path);
}

/* The cache of a source whose tokenizer has changed is refused: same ids of the tokens around documents, so that the
 * name is the same. */
static void test_other_tokenizer(void **state) {
  fixture f = *(fixture *)*state;
  f.options.path = tempdir_write_text(f.dir, "other.txt", "one two\n<|endoftext|>\nthree");
  f.options.end_token = "";
  assert_true(is_built(&f.options));
  ie_tokenizer *other = chat_sample_tokenizer(&chat_samples[0]);
  f.options.tokenizer = other;
  data_refused(&f.options, IE_FORMAT, "another tokenizer");
  ie_tokenizer_free(other);
}

/* Each byte of a small file changed, and the file cut there: always an error, never a crash. */
static void test_damaged(void **state) {
  fixture f = *(fixture *)*state;
  f.options.path = tempdir_write_text(f.dir, "damage.jsonl",
                                      "{\"prompt\":\"a\",\"completion\":\"b c\"}\n{\"text\":\"d e\"}");
  char *path = ids_path(&f.options);
  ie_buf bytes = {0};
  assert_int_equal(ie_file_read(path, 1 << 20, &bytes, NULL), IE_OK);
  assert_true(bytes.size < 400);
  ie_id_file file;
  uint64_t *copy = calloc(bytes.size / 8 + 1, 8);
  for (size_t i = 0; i < bytes.size; i++) {
    ie_error error = {0};
    memcpy(copy, bytes.data, bytes.size);
    assert_int_equal(ie_id_file_parse(copy, i, "x", &file, &error), IE_FORMAT);
    assert_non_null(strstr(error.message, "x: "));
    for (int bit = 0; bit < 8; bit++) {
      memcpy(copy, bytes.data, bytes.size);
      ((uint8_t *)copy)[i] ^= (uint8_t)(1u << bit);
      assert_int_equal(ie_id_file_parse(copy, bytes.size, "x", &file, &error), IE_FORMAT);
      assert_null(file.header);
    }
  }
  /* with a right checksum, the numbers themselves are checked */
  memcpy(copy, bytes.data, bytes.size);
  ie_id_header *h = (ie_id_header *)(void *)copy;
  h->vocab = 60; /* below the end token's id */
  h->checksum = ie_id_file_sum(copy, bytes.size);
  ie_error error = {0};
  assert_int_equal(ie_id_file_parse(copy, bytes.size, "x", &file, &error), IE_FORMAT);
  assert_non_null(strstr(error.message, "ids below 60"));
  free(copy);
  free(path);
  ie_buf_free(&bytes);
}

/* A process that is killed while it tokenises leaves no file under the name, and the next one makes it. */
static bool stop_here(void *user, uint64_t done, uint64_t total) {
  (void)done;
  (void)total;
  if (*(int *)user == 0) return false;
  kill(getpid(), SIGKILL);
  return true;
}

static void test_killed(void **state) {
  fixture f = *(fixture *)*state;
  char folder[300];
  int how = 1;
  snprintf(folder, sizeof folder, "%s/killed", f.dir);
  f.options.cache_dir = folder;
  f.options.progress = stop_here;
  f.options.user = &how;
  f.options.threads = 1;
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    ie_data *data;
    ie_data_open(&f.options, &data, NULL);
    _exit(0);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFSIGNALED(status));
  char command[400];
  snprintf(command, sizeof command, "test -z \"$(ls %s | grep 'ids$')\"", folder);
  assert_int_equal(system(command), 0);
  how = 0;
  data_refused(&f.options, IE_CANCELLED, "stopped");
  assert_int_equal(system(command), 0);
  f.options.progress = NULL;
  assert_true(is_built(&f.options));
  snprintf(command, sizeof command, "test 1 = \"$(ls %s | wc -l)\"", folder);
  assert_int_equal(system(command), 0); /* what the killed one left is gone too */
}

static void test_refused(void **state) {
  fixture f = *(fixture *)*state;
  ie_data_options o = f.options;
  o.rows = 0;
  data_refused(&o, IE_INVALID_ARGUMENT, "at least one row");
  o = f.options;
  o.length = 0;
  data_refused(&o, IE_INVALID_ARGUMENT, "one token");
  o = f.options;
  o.tokenizer = NULL;
  data_refused(&o, IE_INVALID_ARGUMENT, "tokenizer");
  o = f.options;
  o.data_ids = "x";
  data_refused(&o, IE_INVALID_ARGUMENT, "one of two");
  o = f.options;
  o.piece_tok = 4;
  data_refused(&o, IE_INVALID_ARGUMENT, "stream");
  o = f.options;
  o.path = tempdir_write_text(f.dir, "empty.txt", "");
  data_refused(&o, IE_LIMIT, "two tokens");
  o.path = tempdir_path(f.dir, "missing.txt");
  data_refused(&o, IE_IO, "missing.txt");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_documents), cmocka_unit_test(test_tokens),
      cmocka_unit_test(test_stream),    cmocka_unit_test(test_packed),
      cmocka_unit_test(test_once),      cmocka_unit_test(test_whole),
      cmocka_unit_test(test_processes), cmocka_unit_test(test_resume),
      cmocka_unit_test(test_seed),      cmocka_unit_test(test_data_ids),
      cmocka_unit_test(test_masks),     cmocka_unit_test(test_rows_refused),
      cmocka_unit_test(test_cache),     cmocka_unit_test(test_damaged),
      cmocka_unit_test(test_killed),    cmocka_unit_test(test_other_tokenizer),
      cmocka_unit_test(test_refused),   cmocka_unit_test(test_text_packed),
      cmocka_unit_test(test_checksum),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
