# The CUDA kernels without CUDA: src/cuda/*.cu as host code over the runtime of tests/cuda/emulate. Proves what the
# kernels compute and where they read and write; not races of real warps (three orders of the threads find missing
# barriers), not speed. g++ is all it needs; without it the stage counts as skipped.
EMU_FLAGS := -Itests/cuda/emulate -Iinclude -Isrc -DCLOCHER_CUDA_EMULATED=1
EMU_CXXFLAGS = -std=c++17 -D_GNU_SOURCE $(OPT) -Wall -Wextra -Wshadow -Wno-unknown-pragmas -Werror -fPIC -fno-math-errno \
  -ffp-contract=off -pthread $(SAN_FLAGS)
EMU_KERNEL_OBJ := $(patsubst %,$(B)/emulated/%.o,$(wildcard src/cuda/*.cu))
EMU_RUNTIME_OBJ := $(patsubst %,$(B)/emulated/%.o,$(wildcard tests/cuda/emulate/*.cpp))
EMU_TESTS := $(patsubst tests/cuda/%.c,%,$(wildcard tests/cuda/test_*.c))
EMU_HELP_OBJ := $(patsubst %,$(B)/emulated/%.o,$(filter-out tests/cuda/test_%,$(wildcard tests/cuda/*.c)))
EMU_TEST_OBJ := $(EMU_TESTS:%=$(B)/emulated/tests/cuda/%.c.o)
EMU_TEST_BIN := $(EMU_TESTS:%=$(B)/emulated/%)
EMU_LIB := $(B)/emulated/libkernels.a
EMU_FOUND := $(shell command -v $(CXX) 2>/dev/null)

$(B)/emulated/%.cu.o: %.cu $(B)/flags.stamp
	@mkdir -p $(@D)
	$(call say,CXX)
	$(Q)$(CXX) $(EMU_CXXFLAGS) $(EMU_FLAGS) -MMD -MP -x c++ -c -o $@ $<
$(B)/emulated/%.cpp.o: %.cpp $(B)/flags.stamp
	@mkdir -p $(@D)
	$(call say,CXX)
	$(Q)$(CXX) $(EMU_CXXFLAGS) $(EMU_FLAGS) -MMD -MP -c -o $@ $<
$(B)/emulated/%.c.o: INCLUDES = $(EMU_FLAGS) -Itests $(addprefix -include ,stdarg.h stddef.h stdint.h setjmp.h)
$(B)/emulated/%.c.o: %.c $(B)/flags.stamp
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(COMPILE) -c -o $@ $<

$(EMU_LIB): $(EMU_KERNEL_OBJ) $(EMU_RUNTIME_OBJ)
	$(call say,AR)
	$(Q)rm -f $@ && $(AR) rcs $@ $^
$(EMU_TEST_BIN): $(B)/emulated/%: $(B)/emulated/tests/cuda/%.c.o $(EMU_HELP_OBJ) $(EMU_LIB) $(B)/tests/libsupport.a $(INTERNAL_LIB)
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $^ -lcmocka $(LDLIBS) -lstdc++

.PHONY: test-emulated emulated-build
emulated-build: $(if $(EMU_FOUND),$(EMU_TEST_BIN))
test-emulated: emulated-build
	@$(TEST_SH) run emulated $(if $(EMU_FOUND),$(EMU_TEST_BIN),tests/cuda/no_compiler.sh)

-include $(wildcard $(EMU_KERNEL_OBJ:.o=.d) $(EMU_RUNTIME_OBJ:.o=.d) $(EMU_TEST_OBJ:.o=.d) $(EMU_HELP_OBJ:.o=.d))
