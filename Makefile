# Clocher. `make demo` and `make test` do all the set-up; `make help` lists the targets.
#
# This file says how sources become objects, libraries, the program and tests. mk/*.mk holds the rest, one
# subject a file: setup, test, lint, sanitize, install, demo, fuzz.
SHELL := /bin/bash
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

VERSION  := 0.1.0
SOVERSION := 0

# --- What a caller may set -------------------------------------------------------------------------------------
B       ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
OPT     ?= -O2 -g
JOBS    ?= $(shell nproc 2>/dev/null || echo 1)
# Optional libraries to leave out, such as WITHOUT="uring curl".
WITHOUT ?=
# Sanitizers of this object folder: empty, asan or tsan (mk/sanitize.mk).
SAN     ?=
# V=1 shows each command.
V       ?=
PKG_CONFIG ?= pkg-config
OBJCOPY    ?= objcopy
ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif

LIBS_REQUIRED := jansson libpcre2-8 libutf8proc nettle
LIBS_OPTIONAL := liburing hwloc libedit libcurl ompi-c

# Installs what is missing (for demo and the tests only), then writes $(B)/config.mk: ARCH, PKG_CFLAGS, PKG_LIBS,
# OPTIONAL_FOUND, OPTIONAL_CFLAGS.
include mk/setup.mk

Q := $(if $(V),,@)
say = $(if $(V),@:,@printf '  %-7s %s\n' '$(1)' '$@')

# --- Flags -----------------------------------------------------------------------------------------------------
WARN := -Wall -Wextra -Wshadow -Wconversion -Wpedantic -Werror
BASE_FLAGS = -std=c11 -D_GNU_SOURCE $(OPT) $(WARN) -fPIC -fno-math-errno -ffp-contract=off -fvisibility=hidden \
  -pthread $(SAN_FLAGS) $(PKG_CFLAGS) $(OPTIONAL_CFLAGS)
# INCLUDES, ISA_FLAGS and DEFINES differ by folder (below); CFLAGS is the caller's and comes last.
INCLUDES = -Iinclude -Isrc
COMPILE  = $(CC) $(BASE_FLAGS) $(INCLUDES) $(ISA_FLAGS) $(DEFINES) $(CPPFLAGS) $(CFLAGS) -MMD -MP
LINK     = $(CC) $(SAN_FLAGS) -pthread -Wl,--as-needed $(LDFLAGS)
LDLIBS   = $(PKG_LIBS) -lm

# One folder an instruction set, each with its own flags; nothing else may use them.
ISA_avx2   := -mavx2 -mfma -mf16c
ISA_avx512 := $(ISA_avx2) -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vbmi
ISA_amx    := $(ISA_avx512) -mamx-tile -mamx-bf16 -mamx-int8
ISA_FOLDERS_x86_64 := avx2 avx512 amx
ISA_FOLDERS := $(ISA_FOLDERS_$(ARCH))
ISA_OTHERS  := $(filter-out $(ISA_FOLDERS),avx2 avx512 amx)

# --- Sources ---------------------------------------------------------------------------------------------------
LIB_SRC := $(filter-out src/cuda/% $(ISA_OTHERS:%=src/kernels/%/%),$(wildcard src/*/*.c src/kernels/*/*.c))
CLI_SRC := $(wildcard cli/*.c)
SUPPORT_SRC := $(wildcard tests/support/*.c)
TESTS   := $(patsubst tests/%.c,%,$(wildcard tests/test_*.c))
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o)
CLI_OBJ := $(CLI_SRC:%.c=$(B)/%.o)
SUPPORT_OBJ := $(SUPPORT_SRC:%.c=$(B)/%.o)
TEST_OBJ := $(TESTS:%=$(B)/tests/%.o)
TEST_BIN := $(TESTS:%=$(B)/tests/%)

STATIC_LIB := $(B)/libclocher.a
# Every object with every name, for tests, fuzzers and benchmarks of parts. The program takes the public library.
INTERNAL_LIB := $(B)/libclocher-internal.a
SHARED_LIB := $(B)/libclocher.so.$(VERSION)
PROGRAM := $(if $(CLI_SRC),$(B)/clocher)
# The same program: the name it is called by decides (docs/inference-engine.md).
PROGRAM_NAMES := $(if $(CLI_SRC),$(B)/inference-engine)

.PHONY: all build libs clean help FORCE
build: $(STATIC_LIB) $(PROGRAM) $(PROGRAM_NAMES) ## the program and the static library (the default)
all: build libs ## also the shared library
libs: $(STATIC_LIB) $(SHARED_LIB)

# --- Objects ---------------------------------------------------------------------------------------------------
# Written anew only when its text changes, so that other flags, another compiler or another commit rebuild.
define stamp
@mkdir -p $(@D)
@printf '%s\n' '$(subst ','\'',$(1))' | cmp -s - $@ || printf '%s\n' '$(subst ','\'',$(1))' > $@
endef
$(B)/flags.stamp: FORCE
	$(call stamp,$(CC) $(BASE_FLAGS) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(PKG_LIBS))
$(B)/commit.stamp: FORCE
	$(call stamp,$(VERSION) $(COMMIT))
FORCE:

# Folder flags. The command line sees the public headers only.
$(B)/src/kernels/avx2/%.o: ISA_FLAGS = $(ISA_avx2)
$(B)/src/kernels/avx512/%.o: ISA_FLAGS = $(ISA_avx512)
$(B)/src/kernels/amx/%.o: ISA_FLAGS = $(ISA_amx)
$(B)/tests/support/amx_%.o: ISA_FLAGS = $(if $(ISA_FOLDERS),$(ISA_avx512))
$(B)/cli/%.o: INCLUDES = -Iinclude
# cmocka.h wants four headers before it, and clang-format sorts.
$(B)/tests/%.o: INCLUDES = -Iinclude -Isrc -Itests -I. $(addprefix -include ,stdarg.h stddef.h stdint.h setjmp.h)

# The version file alone knows the commit: src/base/version.c or cli/cmd_version.c.
COMMIT = $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
VERSION_OBJ := $(filter %/version.o %/cmd_version.o,$(LIB_OBJ) $(CLI_OBJ))
$(VERSION_OBJ): DEFINES = -DCLOCHER_VERSION='"$(VERSION)"' -DCLOCHER_COMMIT='"$(COMMIT)"'
$(VERSION_OBJ): $(B)/commit.stamp

$(B)/%.o: %.c $(B)/flags.stamp
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(COMPILE) -c -o $@ $<

# --- Libraries and programs ------------------------------------------------------------------------------------
# One object in which what is hidden is local, so that a program linked with it may use any other name.
$(B)/libclocher.o: $(LIB_OBJ)
	$(Q)$(CC) -r -nostdlib -o $@ $^ && $(OBJCOPY) --localize-hidden $@
$(STATIC_LIB): $(B)/libclocher.o
$(INTERNAL_LIB): $(LIB_OBJ)
$(STATIC_LIB) $(INTERNAL_LIB):
	$(call say,AR)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

# src/libclocher.map lets ie_ symbols out, visibility only those of the public headers.
$(SHARED_LIB): $(LIB_OBJ) src/libclocher.map
	$(call say,LINK)
	$(Q)$(LINK) -shared -Wl,-soname,libclocher.so.$(SOVERSION) -Wl,--version-script=src/libclocher.map \
	  $(if $(SAN),,-Wl,--no-undefined) -o $@ $(LIB_OBJ) $(LDLIBS)
	$(Q)ln -sf $(@F) $(B)/libclocher.so.$(SOVERSION) && ln -sf $(@F) $(B)/libclocher.so

$(B)/clocher: $(CLI_OBJ) $(STATIC_LIB)
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $^ $(LDLIBS)

$(PROGRAM_NAMES): $(B)/clocher
	$(Q)ln -sf $(<F) $@

# Test programs. Archives, so that a helper (or a part of the command line) is linked into the tests that use it;
# LDFLAGS_test_NAME holds what one of them needs besides.
$(B)/tests/libsupport.a: $(SUPPORT_OBJ)
	$(Q)mkdir -p $(@D) && rm -f $@ && $(AR) rcs $@ $^
$(B)/libcli.a: $(CLI_OBJ)
	$(Q)mkdir -p $(@D) && rm -f $@ && $(AR) rcs $@ $^
$(TEST_BIN): $(B)/tests/%: $(B)/tests/%.o $(B)/tests/libsupport.a $(B)/libcli.a $(INTERNAL_LIB)
	$(call say,LINK)
	$(Q)$(LINK) $(LDFLAGS_$*) -o $@ $^ -lcmocka $(LDLIBS)

clean: ## removes everything that was built
	rm -rf $(B)

help: ## this list
	@echo "Targets:"
	@sed -nE 's/^([a-z][a-z-]*):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | sort -u | expand -t 20
	@echo "Variables: B=$(B) PREFIX=$(PREFIX) DESTDIR= CC=$(CC) OPT=\"$(OPT)\" CFLAGS= LDFLAGS= WITHOUT=\"uring curl ...\""

include $(filter-out mk/setup.mk,$(sort $(wildcard mk/*.mk)))
-include $(wildcard $(LIB_OBJ:.o=.d) $(CLI_OBJ:.o=.d) $(SUPPORT_OBJ:.o=.d) $(TEST_OBJ:.o=.d))
