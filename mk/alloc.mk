# Tests whose allocations fail on demand (tests/support/failing_malloc.h).
comma := ,
ALLOC_WRAPPED := malloc calloc realloc aligned_alloc posix_memalign strdup mmap pthread_create \
  pcre2_compile_context_create_8 pcre2_match_context_create_8
LDFLAGS_test_alloc_failure := $(ALLOC_WRAPPED:%=-Wl$(comma)--wrap=%)
LDFLAGS_test_alloc_engine := $(LDFLAGS_test_alloc_failure)
LDFLAGS_test_alloc_train := $(LDFLAGS_test_alloc_failure)
LDFLAGS_test_harmony_memory := $(LDFLAGS_test_alloc_failure)
LDFLAGS_test_chat_memory := $(LDFLAGS_test_alloc_failure)
LDFLAGS_test_conversation := $(LDFLAGS_test_alloc_failure)
