#include "text/pack.h"

#include "base/file.h"
#include "base/hash.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

/* A file that was written this shortly before its pack may have been written again without its times changing. */
#define PACK_RACY_NS 2000000000

static int64_t time_ns(struct timespec t) {
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The file's identity but for its contents' hash, and the path of its pack (to be freed); NULL when it has none. */
static char *pack_identify(const char *folder, const char *path, const char *encoding,
                           ie_image_source *source) {
  struct stat st;
  char *full = realpath(path, NULL), *pack = NULL;
  ie_buf key = {0};
  if (full && stat(full, &st) == 0) {
    *source = (ie_image_source){.size = (uint64_t)st.st_size,
                                .inode = (uint64_t)st.st_ino,
                                .mtime_ns = time_ns(st.st_mtim),
                                .ctime_ns = time_ns(st.st_ctim)};
    char hex[2 * IE_SHA256_BYTES + 1];
    if (ie_buf_append(&key, full, strlen(full) + 1) && ie_buf_append_str(&key, encoding ? encoding : "")) {
      ie_sha256(key.data, key.size, source->path_sha256);
      ie_sha256_hex(source->path_sha256, hex);
      ie_buf_clear(&key);
      if (ie_buf_printf(&key, "tokenizer-%.32s.pack", hex)) pack = ie_path_join(folder, key.data);
    }
  }
  ie_buf_free(&key);
  free(full);
  return pack;
}

static bool source_hash_equals(const char *path, const ie_image_source *packed) {
  ie_map map;
  uint8_t hash[IE_SHA256_BYTES];
  if (ie_map_open(path, &map, NULL) != IE_OK) return false;
  ie_sha256(map.data, map.size, hash);
  ie_map_close(&map);
  return memcmp(hash, packed->sha256, sizeof hash) == 0;
}

/* Whether the pack was made from the file as it is now. */
static bool source_is_same(const char *path, const ie_image_source *now, const ie_image_source *packed) {
  if (now->size != packed->size ||
      memcmp(now->path_sha256, packed->path_sha256, sizeof now->path_sha256) != 0)
    return false;
  int64_t last = now->ctime_ns > now->mtime_ns ? now->ctime_ns : now->mtime_ns;
  if (now->inode == packed->inode && now->mtime_ns == packed->mtime_ns && now->ctime_ns == packed->ctime_ns &&
      packed->packed_ns - last >= PACK_RACY_NS)
    return true;
  return source_hash_equals(path, packed);
}

void ie_pack_load(const char *folder, const char *path, const char *encoding, ie_tokenizer **out) {
  *out = NULL;
  ie_image_source now;
  ie_map map;
  char *pack = pack_identify(folder, path, encoding, &now);
  if (pack && now.size >= IE_PACK_MIN_BYTES && ie_map_open(pack, &map, NULL) == IE_OK) {
    const ie_image_header *header = (const void *)map.data;
    if (map.size >= sizeof *header && memcmp(header->magic, IE_IMAGE_MAGIC, sizeof header->magic) == 0 &&
        source_is_same(path, &now, &header->source))
      (void)ie_tokenizer_from_image(NULL, 0, &map, pack, out, NULL);
    ie_map_close(&map);
  }
  free(pack);
}

void ie_pack_store(const char *folder, const char *path, const char *encoding, const void *data, size_t size,
                   void *image, size_t image_size) {
  if (size < IE_PACK_MIN_BYTES) return;
  ie_image_header *header = image;
  struct timespec clock;
  ie_image_source source;
  char *pack = pack_identify(folder, path, encoding, &source);
  if (pack && source.size == size && clock_gettime(CLOCK_REALTIME, &clock) == 0) {
    source.packed_ns = time_ns(clock);
    ie_sha256(data, size, source.sha256);
    header->source = source;
    header->checksum = ie_image_sum(image, image_size);
    if (ie_folder_make(folder, NULL) == IE_OK) (void)ie_file_write(pack, image, image_size, NULL);
  }
  free(pack);
}
