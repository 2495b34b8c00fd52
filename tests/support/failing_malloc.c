#include "support/failing_malloc.h"

#include "support/emulated.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <errno.h>
#include <jansson.h>
#include <pcre2.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>

#include <cmocka.h>

static atomic_bool armed, forever, fired, thread_refused;
static atomic_long calls, target;
static atomic_long json_blocks; /* that jansson holds */

/* Counts one call; true when it is to fail. */
static bool fails(void) {
  if (!atomic_load(&armed)) return false;
  long n = atomic_fetch_add(&calls, 1) + 1;
  if (n != atomic_load(&target) && !(n > atomic_load(&target) && atomic_load(&forever))) return false;
  atomic_store(&fired, true);
  errno = ENOMEM;
  return true;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
int __real_posix_memalign(void **out, size_t align, size_t size);
char *__real_strdup(const char *s);
void *__real_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
int __wrap_posix_memalign(void **out, size_t align, size_t size);
char *__wrap_strdup(const char *s);
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg);

void *__wrap_malloc(size_t size) {
  return fails() ? NULL : __real_malloc(size);
}
void *__wrap_calloc(size_t count, size_t size) {
  return fails() ? NULL : __real_calloc(count, size);
}
void *__wrap_realloc(void *block, size_t size) {
  return fails() ? NULL : __real_realloc(block, size);
}
void *__wrap_aligned_alloc(size_t align, size_t size) {
  return fails() ? NULL : __real_aligned_alloc(align, size);
}
int __wrap_posix_memalign(void **out, size_t align, size_t size) {
  return fails() ? ENOMEM : __real_posix_memalign(out, align, size);
}
char *__wrap_strdup(const char *s) {
  return fails() ? NULL : __real_strdup(s);
}
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
  return fails() ? MAP_FAILED : __real_mmap(address, size, protection, flags, fd, offset);
}
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg) {
  if (!fails()) return __real_pthread_create(thread, attr, run, arg);
  atomic_store(&thread_refused, true);
  return EAGAIN;
}

/* PCRE2 takes its memory functions from contexts; those that the library makes get ours. */
static void *pcre_malloc(size_t size, void *data) {
  (void)data;
  return fails() ? NULL : __real_malloc(size);
}

static void pcre_free(void *block, void *data) {
  (void)data;
  free(block);
}

/* Made once and kept: a general context only holds the two functions. */
static pcre2_general_context *pcre_context;

pcre2_compile_context *__real_pcre2_compile_context_create_8(pcre2_general_context *context);
pcre2_match_context *__real_pcre2_match_context_create_8(pcre2_general_context *context);
pcre2_compile_context *__wrap_pcre2_compile_context_create_8(pcre2_general_context *context);
pcre2_match_context *__wrap_pcre2_match_context_create_8(pcre2_general_context *context);

pcre2_compile_context *__wrap_pcre2_compile_context_create_8(pcre2_general_context *context) {
  return __real_pcre2_compile_context_create_8(context ? context : pcre_context);
}
pcre2_match_context *__wrap_pcre2_match_context_create_8(pcre2_general_context *context) {
  return __real_pcre2_match_context_create_8(context ? context : pcre_context);
}

/* jansson 2.14 does not look whether its token buffer grew (lex_save in load.c) and then reads beyond it. The buffer
 * doubles, so its sizes are the powers of two: those are granted, all other blocks of jansson can fail. */
static bool json_may_fail(size_t size) {
  return (size & (size - 1)) != 0 || size > 4096;
}

static void *json_malloc_counted(size_t size) {
  void *block = json_may_fail(size) && fails() ? NULL : __real_malloc(size);
  if (block) atomic_fetch_add(&json_blocks, 1);
  return block;
}

static void json_free_counted(void *block) {
  if (block) atomic_fetch_sub(&json_blocks, 1);
  free(block);
}

void failing_malloc_install(void) {
  json_set_alloc_funcs(json_malloc_counted, json_free_counted);
  pcre_context = pcre2_general_context_create(pcre_malloc, pcre_free, NULL);
}

void failing_malloc_uninstall(void) {
  pcre2_general_context_free(pcre_context);
  pcre_context = NULL;
}

void failing_malloc_arm(long n, failing_mode mode) {
  atomic_store(&calls, 0);
  atomic_store(&target, n);
  atomic_store(&forever, mode == FAILING_FOREVER);
  atomic_store(&fired, false);
  atomic_store(&thread_refused, false);
  atomic_store(&armed, true);
}

bool failing_malloc_disarm(void) {
  atomic_store(&armed, false);
  return atomic_load(&fired);
}

long failing_malloc_calls(void) {
  return atomic_load(&calls);
}

static void exhaust_mode(const failing_case *c, void *arg, failing_mode mode) {
  const char *mode_name = mode == FAILING_ONCE ? "once" : "forever";
  long limit = c->limit ? c->limit : 20000;
  long step = 1;
  for (long n = 1; n <= limit; n += step) {
    if (n > 50) step = emulated_step(13); /* the time grows with the square of the allocations */
    ie_error error = {0};
    long blocks = atomic_load(&json_blocks);
    failing_malloc_arm(n, mode);
    ie_status status = c->run(arg, &error);
    bool failed = failing_malloc_disarm();
    if (atomic_load(&json_blocks) != blocks)
      fail_msg("%s: allocation %ld failing %s: JSON is leaked", c->name, n, mode_name);
    if (!failed) {
      if (status != IE_OK) fail_msg("%s: %s, with all allocations granted", c->name, error.message);
      if (n == 1) fail_msg("%s: allocates nothing: what does it test?", c->name);
      return;
    }
    bool told = status == IE_OUT_OF_MEMORY || (status == IE_LIMIT && atomic_load(&thread_refused));
    bool accepted = (told && error.status == status && error.message[0]) || (status == IE_OK && c->tolerant);
    if (!accepted)
      fail_msg("%s: allocation %ld failing %s: status %s, message '%s'", c->name, n, mode_name,
               ie_status_name(status), error.message);
  }
  fail_msg("%s: still failing after %ld allocations", c->name, limit);
}

void failing_malloc_exhaust(const failing_case *c, void *arg) {
  exhaust_mode(c, arg, FAILING_ONCE);
  exhaust_mode(c, arg, FAILING_FOREVER);
}
