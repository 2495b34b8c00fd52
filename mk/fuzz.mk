# Fuzzers: fuzz/fuzz_NAME.c, one parser each, with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer.
#
# They are built by clang in object folders of their own, $(B)/fuzz and $(B)/fuzz-coverage, by the same rules as all
# else. Committed seeds stand in fuzz/corpus/NAME; what a run finds new goes to $(B)/fuzz/corpus/NAME, an input that
# breaks a parser to $(B)/fuzz/findings. The first lines of a fuzzer name the sources that it is to cover:
#   Covers: src/formats/safetensors.c src/formats/table.c
# docs/testing.md tells how to work with them.
FUZZ_CC       ?= clang
FUZZ_SECONDS  ?= 60
FUZZ_COVERAGE ?= 85
FUZZERS  := $(patsubst fuzz/%.c,%,$(wildcard fuzz/fuzz_*.c))
FUZZ_BIN := $(FUZZERS:%=$(B)/fuzz/%)

# Inside the object folder; SAN_FLAGS is put together in sanitize.mk.
SAN_FLAGS_fuzz := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_FLAGS_fuzz-coverage := -fsanitize=fuzzer-no-link -fprofile-instr-generate -fcoverage-mapping

# No parser runs in the kernels, and clang takes minutes to instrument what is inlined there.
ifneq ($(filter fuzz%,$(SAN)),)
$(B)/src/kernels/%.o: SAN_FLAGS =
endif

$(B)/fuzz/%.o: INCLUDES = -Iinclude -Isrc
.PHONY: fuzz-programs
fuzz-programs: $(FUZZ_BIN)
$(FUZZ_BIN): $(B)/fuzz/%: $(B)/fuzz/%.o $(INTERNAL_LIB)
	$(call say,LINK)
	$(Q)$(LINK) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)

# gcc's warnings are the ones that count; clang is here for the fuzzer.
FUZZ_MAKE = $(SUBMAKE) CC='$(FUZZ_CC)' OPT='-O1 -g' WARN=-w fuzz-programs
FUZZ_SH   = B='$(B)' FUZZERS='$(FUZZERS)' FUZZ_SECONDS='$(FUZZ_SECONDS)' FUZZ_COVERAGE='$(FUZZ_COVERAGE)' scripts/fuzz.sh

.PHONY: fuzz fuzz-build fuzz-coverage fuzz-merge
fuzz-build:
	+@$(FUZZ_MAKE) B=$(B)/fuzz SAN=fuzz

fuzz: fuzz-build ## every fuzzer for FUZZ_SECONDS (60) from its corpus
	@$(FUZZ_SH) run

fuzz-coverage: ## the share of each parser's lines that its corpus reaches
	+@$(FUZZ_MAKE) B=$(B)/fuzz-coverage SAN=fuzz-coverage
	@$(FUZZ_SH) coverage

fuzz-merge: fuzz-build ## adds to fuzz/corpus what runs have found and covers something new
	@$(FUZZ_SH) merge
