# Tests. A stage is built and run by its target test-STAGE; scripts/test.sh runs stages one after the other, prints
# the time of each, counts, and ends with "N passed, N failed, N skipped" and the exit status.
#
# A test is tests/test_NAME.c (cmocka) or tests/test_NAME.sh (TAP: "ok 1 - name", "not ok 2 - name",
# "ok 3 - name # SKIP why"). Both run from the repository root with CLOCHER_BIN, the program of the same object
# folder, and CLOCHER_BUILD, that folder.
TEST_SH = B='$(B)' MAKE='$(MAKE)' JOBS='$(JOBS)' scripts/test.sh
SUBMAKE = $(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j$(JOBS))

SHELL_TESTS := $(patsubst tests/%.sh,%,$(wildcard tests/test_*.sh))
# These read what was built, so one run of them is enough.
STRUCTURE_TESTS := $(filter test_structure% test_docs% test_lint%,$(SHELL_TESTS))
# These run the program, so they run again with the scalar kernels. (A unit test goes through the instruction sets
# by itself: the library does not read the environment. Several processes compute as one does, test_cmd_train.)
PROGRAM_TESTS := $(filter test_cli% test_cmd% test_contract%,$(TESTS) $(filter-out $(STRUCTURE_TESTS) test_cmd_train_mpi,$(SHELL_TESTS)))

TEST_STAGES := lint structure unit scalar emulated gpu install asan tsan fuzz
CHECK_STAGES := lint structure unit

# Paths of test programs, compiled or shell.
program_paths = $(foreach t,$(1),$(if $(filter $(t),$(TESTS)),$(B)/tests/$(t),tests/$(t).sh))

.PHONY: test check test-build test-lint test-structure test-unit test-scalar test-install test-asan test-tsan test-fuzz
test: ## every test: lint, structure, unit, scalar kernels, emulated CUDA kernels, installed example, sanitizers, fuzzers
	@$(TEST_SH) all $(TEST_STAGES)

check: ## the quick tests: lint, structure, unit
	@$(TEST_SH) all $(CHECK_STAGES)

test-build: build $(TEST_BIN)

test-lint:
	@$(TEST_SH) run lint $(LINT_CHECKS)

test-structure: build libs $(INTERNAL_LIB) $(BENCH_BIN)
	@$(TEST_SH) run structure $(call program_paths,$(STRUCTURE_TESTS))

test-unit: test-build
	@$(TEST_SH) run unit $(call program_paths,$(TESTS) $(filter-out $(STRUCTURE_TESTS),$(SHELL_TESTS)))

test-scalar: test-build
	@CLOCHER_ISA=scalar $(TEST_SH) run scalar $(call program_paths,$(PROGRAM_TESTS))

test-install: all
	@$(TEST_SH) run install scripts/test_install.sh

test-asan:
	+@$(SUBMAKE) B=$(B)/asan SAN=asan OPT='-O1 -g' RESULTS=$(B)/results test-san-asan

test-tsan:
	+@$(SUBMAKE) B=$(B)/tsan SAN=tsan OPT='-O1 -g' RESULTS=$(B)/results TESTS='$(TSAN_TESTS)' test-san-tsan

# Inside the sanitizer's object folder.
.PHONY: test-san-asan test-san-tsan
test-san-asan: test-build # the longest first, or one core waits for them at the end
	@$(TEST_SH) run asan $(call program_paths,$(filter-out $(STRUCTURE_TESTS),$(SHELL_TESTS)) $(TESTS))
test-san-tsan: $(TEST_BIN)
	@$(TEST_SH) run tsan $(call program_paths,$(TESTS))

# $(FUZZ_SECONDS) for each fuzzer (mk/fuzz.mk); one program runs them all, so its limit is another.
test-fuzz: fuzz-build
	@TEST_LIMIT_S=7200 FUZZERS='$(FUZZERS)' FUZZ_SECONDS='$(FUZZ_SECONDS)' $(TEST_SH) run fuzz scripts/fuzz.sh

.PHONY: docs-ops
docs-ops: $(B)/tests/test_ops_table ## writes the tables of docs/ops.md anew
	$< --write docs/ops.md
