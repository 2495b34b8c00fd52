/* Packs of big tokenizers in a cache folder, and tokenizers of model directories. */
#include "clocher/text.h"
#include "support/tempdir.h"
#include "text/image.h"
#include "text/pack.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define DATA "tests/data/"

typedef struct place {
  char *dir;
  char source[1024], cache[512], pack[1024];
} place;

static void read_whole(const char *path, ie_buf *out) {
  ie_error error = {0};
  if (ie_file_read(path, (size_t)1 << 28, out, &error) != IE_OK) fail_msg("%s", error.message);
}

static void write_whole(const char *path, const ie_buf *bytes) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes->data, 1, bytes->size, file), bytes->size);
  assert_int_equal(fclose(file), 0);
}

/* A tokenizer.json that is big enough to be packed: the small one and white space. `mark` stands in the white space
 * and changes nothing but the bytes of the file. */
static void write_source(const place *p, const char *name, char mark) {
  ie_buf text = {0};
  char path[512];
  snprintf(path, sizeof path, DATA "text/%s", name);
  read_whole(path, &text);
  while (text.size < IE_PACK_MIN_BYTES)
    ie_buf_append(&text, "                                                  \n", 51);
  while (text.size < IE_PACK_MIN_BYTES + 8192) ie_buf_append_char(&text, ' ');
  text.data[text.size - 100] = mark;
  assert_false(text.failed);
  write_whole(p->source, &text);
  ie_buf_free(&text);
}

/* Lets the file look as if it had been written long ago: a pack of it is then trusted by its times. */
static void age(const char *path, time_t seconds) {
  const struct timespec times[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void place_make(place *p) {
  p->dir = tempdir_make();
  snprintf(p->source, sizeof p->source, "%s/tokenizer.json", p->dir);
  snprintf(p->cache, sizeof p->cache, "%s/cache/deep", p->dir);
  p->pack[0] = '\0';
  write_source(p, "o200k_600.tokenizer.json", ' ');
}

/* How many files the cache holds; remembers the pack's path. */
static int cache_files(place *p) {
  DIR *stream = opendir(p->cache);
  int count = 0;
  const struct dirent *entry;
  while (stream && (entry = readdir(stream))) {
    if (entry->d_name[0] == '.') continue;
    snprintf(p->pack, sizeof p->pack, "%s/%s", p->cache, entry->d_name);
    count++;
  }
  if (stream) closedir(stream);
  return count;
}

/* Opens through the cache; the tokenizer works, and *mapped says whether it came from a pack. */
static void open_and_check(const place *p, const char *cache, int32_t vocab, bool *mapped) {
  ie_tokenizer_options options = {.cache_dir = cache};
  ie_tokenizer *tokenizer;
  ie_error error = {0};
  ie_ids ids = {0};
  ie_bytes back = {0};
  static const char text[] = "the thing <|start|> in 1234";
  if (ie_tokenizer_open(p->source, &options, &tokenizer, &error) != IE_OK) fail_msg("%s", error.message);
  assert_int_equal(ie_tokenizer_vocab(tokenizer), vocab);
  assert_string_equal(ie_tokenizer_kind(tokenizer), "tokenizer.json");
  assert_int_equal(ie_tokenizer_encode(tokenizer, text, strlen(text), NULL, &ids, &error), IE_OK);
  assert_int_equal(ie_tokenizer_decode(tokenizer, ids.ids, ids.count, false, &back, &error), IE_OK);
  assert_int_equal(back.size, strlen(text));
  assert_memory_equal(back.data, text, back.size);
  *mapped = tokenizer->owned == NULL;
  ie_ids_free(&ids);
  ie_bytes_free(&back);
  ie_tokenizer_free(tokenizer);
}

enum { VOCAB = 609, OTHER_VOCAB = 607 };

static void packed_once_then_mapped(void **state) {
  (void)state;
  place p;
  bool mapped;
  place_make(&p);
  open_and_check(&p, NULL, VOCAB, &mapped);
  assert_false(mapped);
  assert_int_equal(cache_files(&p), 0);
  open_and_check(&p, p.cache, VOCAB, &mapped);
  assert_false(mapped);
  assert_int_equal(cache_files(&p), 1);
  open_and_check(&p, p.cache, VOCAB, &mapped); /* just written: trusted by its hash */
  assert_true(mapped);
  /* a pack is also a tokenizer file of its own */
  snprintf(p.source, sizeof p.source, "%s", p.pack);
  open_and_check(&p, NULL, VOCAB, &mapped);
  assert_true(mapped);
  tempdir_remove(p.dir);
}

static void small_files_are_not_packed(void **state) {
  (void)state;
  place p;
  bool mapped;
  place_make(&p);
  snprintf(p.source, sizeof p.source, DATA "text/o200k_600.tokenizer.json");
  open_and_check(&p, p.cache, VOCAB, &mapped);
  assert_false(mapped);
  assert_int_equal(cache_files(&p), 0);
  tempdir_remove(p.dir);
}

/* The same size and times, other contents: the pack is not used. */
static void changed_source_is_read_again(void **state) {
  (void)state;
  place p;
  bool mapped;
  place_make(&p);
  age(p.source, 1000000000);
  open_and_check(&p, p.cache, VOCAB, &mapped);
  open_and_check(&p, p.cache, VOCAB, &mapped);
  assert_true(mapped);
  struct stat before, after;
  assert_int_equal(stat(p.source, &before), 0);
  write_source(&p, "flags.tokenizer.json", ' ');
  age(p.source, 1000000000);
  assert_int_equal(stat(p.source, &after), 0);
  assert_int_equal(before.st_size, after.st_size);
  assert_int_equal(before.st_ino, after.st_ino);
  open_and_check(&p, p.cache, OTHER_VOCAB, &mapped);
  assert_false(mapped);
  assert_int_equal(cache_files(&p), 1);
  open_and_check(&p, p.cache, OTHER_VOCAB, &mapped);
  assert_true(mapped);
  age(p.source, 1100000000); /* touched, not changed: known by its hash */
  open_and_check(&p, p.cache, OTHER_VOCAB, &mapped);
  assert_true(mapped);
  write_source(&p, "flags.tokenizer.json", '\n'); /* one byte that changes nothing but the hash */
  open_and_check(&p, p.cache, OTHER_VOCAB, &mapped);
  assert_false(mapped);
  tempdir_remove(p.dir);
}

/* Whatever is wrong with a pack, the tokenizer opens all the same and a good pack takes its place. */
static void damaged_packs_are_replaced(void **state) {
  (void)state;
  place p;
  bool mapped;
  ie_buf pack = {0};
  place_make(&p);
  open_and_check(&p, p.cache, VOCAB, &mapped);
  assert_int_equal(cache_files(&p), 1);
  read_whole(p.pack, &pack);
  for (size_t at = 0; at < pack.size; at += at < 2048 ? 211 : pack.size / 7) {
    ie_buf bad = {0};
    ie_buf_append(&bad, pack.data, pack.size);
    bad.data[at] = (char)(bad.data[at] ^ 0x10);
    write_whole(p.pack, &bad);
    ie_buf_free(&bad);
    open_and_check(&p, p.cache, VOCAB, &mapped);
    assert_false(mapped);
    open_and_check(&p, p.cache, VOCAB, &mapped);
    assert_true(mapped);
  }
  const size_t cuts[] = {0, 1, 100, sizeof(ie_image_header), pack.size / 2, pack.size - 1};
  for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
    assert_int_equal(truncate(p.pack, (off_t)cuts[i]), 0);
    open_and_check(&p, p.cache, VOCAB, &mapped);
    assert_false(mapped);
  }
  ie_buf_free(&pack);
  tempdir_remove(p.dir);
}

/* A pack whose checksum is right and whose contents are not: refused, never read beyond. */
static void hostile_packs_are_refused(void **state) {
  (void)state;
  place p;
  bool mapped;
  ie_buf pack = {0};
  place_make(&p);
  open_and_check(&p, p.cache, VOCAB, &mapped);
  assert_int_equal(cache_files(&p), 1);
  read_whole(p.pack, &pack);
  ie_image_header *header = malloc(pack.size);
  assert_non_null(header);
  size_t refused = 0;
  for (size_t at = 0; at < sizeof *header; at += 4) {
    memcpy(header, pack.data, pack.size);
    uint32_t value = 0x7FFFFFFF;
    memcpy((char *)header + at, &value, sizeof value);
    header->checksum = ie_image_sum(header, pack.size);
    ie_image image;
    ie_error error = {0};
    if (ie_image_attach(header, pack.size, true, "pack", &image, &error) != IE_OK) {
      assert_true(error.message[0] != '\0');
      refused++;
    }
  }
  assert_true(refused > 40);
  memcpy(header, pack.data, pack.size);
  header->version++;
  ie_image image;
  ie_error error = {0};
  assert_int_equal(ie_image_attach(header, pack.size, true, "pack", &image, &error), IE_UNSUPPORTED);
  free(header);
  ie_buf_free(&pack);
  tempdir_remove(p.dir);
}

static void *open_many(void *arg) {
  const place *p = arg;
  for (int i = 0; i < 5; i++) {
    ie_tokenizer_options options = {.cache_dir = p->cache};
    ie_tokenizer *tokenizer = NULL;
    if (ie_tokenizer_open(p->source, &options, &tokenizer, NULL) != IE_OK) return NULL;
    bool good = ie_tokenizer_vocab(tokenizer) == VOCAB;
    ie_tokenizer_free(tokenizer);
    if (!good) return NULL;
  }
  return arg;
}

static void writers_do_not_disturb_each_other(void **state) {
  (void)state;
  place p;
  pthread_t threads[8];
  bool mapped;
  place_make(&p);
  for (int i = 0; i < 8; i++) assert_int_equal(pthread_create(&threads[i], NULL, open_many, &p), 0);
  for (int i = 0; i < 8; i++) {
    void *result;
    assert_int_equal(pthread_join(threads[i], &result), 0);
    assert_non_null(result);
  }
  assert_int_equal(cache_files(&p), 1);
  open_and_check(&p, p.cache, VOCAB, &mapped);
  assert_true(mapped);
  tempdir_remove(p.dir);
}

static void folders_that_cannot_be_written_do_no_harm(void **state) {
  (void)state;
  place p;
  bool mapped;
  place_make(&p);
  open_and_check(&p, p.source, VOCAB, &mapped); /* a file where a folder should be */
  open_and_check(&p, "/proc/nothing/here", VOCAB, &mapped);
  assert_false(mapped);
  tempdir_remove(p.dir);
}

/* ---- model directories ---- */

static void copy_to(const char *dir, const char *name, const char *from) {
  ie_buf bytes = {0};
  read_whole(from, &bytes);
  tempdir_write(dir, name, bytes.data, bytes.size);
  ie_buf_free(&bytes);
}

static void expect_dir(const char *dir, const char *kind, int32_t vocab) {
  ie_tokenizer *tokenizer;
  ie_error error = {0};
  if (ie_tokenizer_open_dir(dir, NULL, &tokenizer, &error) != IE_OK) fail_msg("%s", error.message);
  if (!kind) {
    assert_null(tokenizer);
    return;
  }
  assert_non_null(tokenizer);
  assert_string_equal(ie_tokenizer_kind(tokenizer), kind);
  assert_int_equal(ie_tokenizer_vocab(tokenizer), vocab);
  ie_tokenizer_free(tokenizer);
}

static void directories_are_searched_in_order(void **state) {
  (void)state;
  char *dir = tempdir_make();
  ie_tokenizer *tokenizer;
  ie_error error = {0};
  expect_dir(dir, NULL, 0);
  copy_to(dir, "hf/tokenizer.ie.bin", DATA "text/o200k_600.ie.bin");
  expect_dir(dir, "ietok1", 609);
  copy_to(dir, "original/tokenizer.pkl", DATA "text/nanochat_500.pkl");
  expect_dir(dir, "tokenizer.pkl", 509);
  copy_to(dir, "original/vocabulary.tiktoken", DATA "harmony/o200k_4000.tiktoken");
  /* 4,000 ranks could be anything's, and no config.json tells */
  assert_int_equal(ie_tokenizer_open_dir(dir, NULL, &tokenizer, &error), IE_INVALID_ARGUMENT);
  assert_null(tokenizer);
  tempdir_write_text(dir, "original/config.json", "{\"experts_per_token\":4,\"swiglu_limit\":7.0}");
  expect_dir(dir, "tiktoken", 201088); /* OpenAI's own config.json */
  tempdir_write_text(dir, "config.json", "{\"model_type\":\"gpt_oss\"}");
  expect_dir(dir, "tiktoken", 201088);
  copy_to(dir, "hf/original/tokenizer.json", DATA "text/flags.tokenizer.json");
  expect_dir(dir, "tokenizer.json", 607);
  copy_to(dir, "tokenizer.json", DATA "text/o200k_600.tokenizer.json");
  expect_dir(dir, "tokenizer.json", 609);
  tempdir_write_text(dir, "tokenizer.json", "{}");
  assert_int_equal(ie_tokenizer_open_dir(dir, NULL, &tokenizer, &error), IE_FORMAT); /* never the next one */
  assert_int_equal(ie_tokenizer_open_dir("/nonexistent", NULL, &tokenizer, &error), IE_IO);
  tempdir_remove(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(packed_once_then_mapped),
      cmocka_unit_test(small_files_are_not_packed),
      cmocka_unit_test(changed_source_is_read_again),
      cmocka_unit_test(damaged_packs_are_replaced),
      cmocka_unit_test(hostile_packs_are_refused),
      cmocka_unit_test(writers_do_not_disturb_each_other),
      cmocka_unit_test(folders_that_cannot_be_written_do_no_harm),
      cmocka_unit_test(directories_are_searched_in_order),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
