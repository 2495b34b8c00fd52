# Another architecture: everything cross-compiled for aarch64 in $(B)/aarch64 and its tests run under qemu, with the
# scalar kernels. Debian and Ubuntu; not a part of `make test` (docs/testing.md).
AARCH64         := aarch64-linux-gnu
AARCH64_SYSROOT := $(abspath $(B))/sysroot-aarch64
AARCH64_SH      := SYSROOT=$(AARCH64_SYSROOT) scripts/aarch64.sh
AARCH64_MAKE     = $(AARCH64_SH) env $(SUBMAKE) B=$(B)/aarch64 AARCH64_SYSROOT=$(AARCH64_SYSROOT) \
  CC='$(AARCH64)-gcc --sysroot=$(AARCH64_SYSROOT)' AR=$(AARCH64)-ar \
  OBJCOPY=$(AARCH64)-objcopy WITHOUT='uring hwloc edit curl'

.PHONY: aarch64 test-aarch64
aarch64: ## cross-compiles for aarch64 and runs the unit tests under qemu (installs compiler, qemu, arm64 libraries)
	+@$(AARCH64_SH) setup
	+@$(AARCH64_MAKE) aarch64-inside

# Inside the object folder.
.PHONY: aarch64-inside
aarch64-inside:
	@$(TEST_SH) one aarch64
test-aarch64: test-build
	@for program in $(PROGRAM) $(PROGRAM_NAMES); do $(AARCH64_SH) wrap $(B)/qemu/$${program##*/} $$program; done
	@TEST_LIMIT_S=7200 TEST_PROGRAM=$(B)/qemu/clocher $(TEST_SH) run aarch64 \
	  $(call program_paths,$(TESTS) $(filter-out $(STRUCTURE_TESTS),$(SHELL_TESTS)))
