# Clocher. `make demo` and `make test` do all the set-up; `make help` lists the targets.
SHELL := /bin/bash
B ?= build
PREFIX ?= /usr/local
CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif
VERSION := 0.1.0

# Compiled into cli/version.o alone, so that a new commit recompiles one file.
COMMIT := $(shell git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || echo unknown)

LIBS_REQUIRED := jansson libpcre2-8 libutf8proc nettle
WARN := -Wall -Wextra -Wshadow -Wconversion -Wpedantic -Werror
OPT ?= -O2 -g
CFLAGS_ALL = -std=c11 -D_GNU_SOURCE $(OPT) $(WARN) -fPIC -fno-math-errno -ffp-contract=off -fvisibility=hidden -pthread -Iinclude -Isrc -MMD -MP $(PKG_CFLAGS) $(CFLAGS)
PKG_CFLAGS = $(shell pkg-config --cflags $(LIBS_REQUIRED))
LDLIBS_ALL = $(shell pkg-config --libs $(LIBS_REQUIRED)) -lm -pthread

# One folder an instruction set, each with its own flags; nothing else may use them.
ISA_avx2   := -mavx2 -mfma -mf16c
ISA_avx512 := $(ISA_avx2) -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vbmi
ISA_amx    := $(ISA_avx512) -mamx-tile -mamx-bf16 -mamx-int8

LIB_SRC := $(filter-out src/cuda/%,$(wildcard src/*/*.c src/kernels/*/*.c))
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o)
CLI_SRC := $(wildcard cli/*.c)
CLI_OBJ := $(CLI_SRC:%.c=$(B)/%.o)
TESTS   := $(patsubst tests/%.c,%,$(wildcard tests/test_*.c))

.PHONY: all build test clean help FORCE
all: build
build: $(B)/clocher

$(B)/clocher: $(CLI_OBJ) $(B)/libclocher.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS_ALL)

$(B)/libclocher.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

$(B)/cli/version.o: CFLAGS_ISA = -DCLOCHER_VERSION='"$(VERSION)"' -DCLOCHER_COMMIT='"$(COMMIT)"'
$(B)/cli/version.o: $(B)/commit
$(B)/commit: FORCE
	@mkdir -p $(@D)
	@echo '$(VERSION) $(COMMIT)' | cmp -s - $@ || echo '$(VERSION) $(COMMIT)' > $@
FORCE:

$(B)/src/kernels/avx2/%.o: CFLAGS_ISA = $(ISA_avx2)
$(B)/src/kernels/avx512/%.o: CFLAGS_ISA = $(ISA_avx512)
$(B)/src/kernels/amx/%.o: CFLAGS_ISA = $(ISA_amx)
$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(CFLAGS_ISA) -c -o $@ $<

$(B)/tests/%: tests/%.c $(B)/libclocher.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) -o $@ $^ -lcmocka $(LDLIBS_ALL)

test: build $(TESTS:%=$(B)/tests/%)
	@set -e; for t in $(TESTS); do echo "== $$t"; $(B)/tests/$$t; done

clean:
	rm -rf $(B)

-include $(shell find $(B) -name '*.d' 2>/dev/null)
