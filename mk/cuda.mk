# The program with CUDA: `make build-cuda` gives $(B)/clocher.cuda and $(B)/inference-engine.cuda.
#
# All objects but those of src/cuda are the CPU build's own. src/cuda lies in $(B)/cuda-obj, stands in the place of
# src/tensor/cuda_absent.c, and its kernels (*.cu) are compiled by nvcc. CUDA's runtime is linked statically: the program
# needs the driver alone, and starts without it (then there is no CUDA device).
#
# CUDA_ARCHS names the chips; with more than one, PTX of the last is added for what comes later:
#   make build-cuda                                       an H100 or H200, quickly
#   make build-cuda CUDA_ARCHS="75 80 86 89 90a 120"      everything since Turing
CUDA_ARCHS ?= 90a
NVCC       ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
CUDA_OBJ   := $(B)/cuda-obj
CUDA_HOME   = $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
CUDA_PTX    = $(if $(filter-out 1,$(words $(CUDA_ARCHS))),$(lastword $(CUDA_ARCHS)))
CUDA_CODE   = $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
  $(foreach a,$(CUDA_PTX),-gencode arch=compute_$(a),code=compute_$(a))

# 4.0 MB of the largest file become 0.5 (nvcc 12.8 and newer).
CUDA_COMPRESS = $(eval CUDA_COMPRESS := $$(if $$(findstring compress-mode,$$(shell $(NVCC) --help)),-compress-mode=size))$(CUDA_COMPRESS)
NVCC_FLAGS = -std=c++17 -O3 -lineinfo $(CUDA_COMPRESS) -Iinclude -Isrc $(CUDA_CODE) -ccbin $(CXX) \
  -Xcompiler -fPIC,-Wall,-fno-math-errno,-ffp-contract=off,-pthread
CUDA_DEFINES = -isystem $(CUDA_HOME)/include -DCLOCHER_CUDA_ARCHS='"$(CUDA_ARCHS)$(CUDA_PTX:%= and PTX of %)"'
CUDA_LIBS    = -L$(CUDA_HOME)/lib64 -L$(CUDA_HOME)/lib -lcudart_static -l:libstdc++.a -ldl -lrt -lpthread

CUDA_C  := $(patsubst %.c,$(CUDA_OBJ)/%.o,$(wildcard src/cuda/*.c))
CUDA_CU := $(patsubst %.cu,$(CUDA_OBJ)/%.cu.o,$(wildcard src/cuda/*.cu))
# What a program with CUDA takes of the CPU build.
CUDA_HOST_OBJ := $(filter-out %/cuda_absent.o,$(LIB_OBJ))
CUDA_PROGRAMS := $(B)/clocher.cuda $(B)/inference-engine.cuda

.PHONY: build-cuda cuda-probe
build-cuda: cuda-probe ## the program with CUDA, $(B)/clocher.cuda; CUDA_ARCHS="75 80 86 89 90a 120" for all chips
	+@$(SUBMAKE) $(CUDA_PROGRAMS)

cuda-probe:
	@NVCC='$(NVCC)' CUDA_HOME='$(CUDA_HOME)' CUDA_ARCHS='$(CUDA_ARCHS)' scripts/gpu_probe_nvcc.sh

$(CUDA_OBJ)/flags.stamp: FORCE
	$(call stamp,$(NVCC) $(NVCC_FLAGS) $(OBJCOPY) $(CUDA_DEFINES) $(CC) $(BASE_FLAGS) $(CPPFLAGS) $(CFLAGS))
$(CUDA_OBJ)/%.o: DEFINES = $(CUDA_DEFINES)
$(CUDA_OBJ)/%.o: %.c $(CUDA_OBJ)/flags.stamp
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(COMPILE) -c -o $@ $<
# nvcc leaves the name of a temporary file, another one each time.
$(CUDA_OBJ)/%.cu.o: %.cu $(CUDA_OBJ)/flags.stamp
	@mkdir -p $(@D)
	$(call say,NVCC)
	$(Q)$(NVCC) $(NVCC_FLAGS) -MMD -MP -MF $(@:.o=.d) -MT $@ -c -o $@ $<
	$(Q)$(OBJCOPY) --wildcard --strip-symbol='tmpxft_*' $@

$(B)/clocher.cuda: $(CLI_OBJ) $(CUDA_C) $(CUDA_CU) $(CUDA_HOST_OBJ)
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $^ $(CUDA_LIBS) $(LDLIBS)
$(B)/inference-engine.cuda: $(B)/clocher.cuda
	$(Q)ln -sf $(<F) $@

# Tests of the device, tests/gpu, and of the kernels, tests/cuda: here for the bundle, and over the emulator by `make test`.
GPU_TESTS    := $(patsubst tests/gpu/%.c,%,$(wildcard tests/gpu/test_*.c))
GPU_PROGRAMS := $(patsubst tests/gpu/%.c,%,$(wildcard tests/gpu/*.c))
KERNEL_TESTS := $(patsubst tests/cuda/%.c,%,$(wildcard tests/cuda/test_*.c))
KERNEL_HELP  := $(patsubst %.c,$(CUDA_OBJ)/%.o,$(filter-out tests/cuda/test_%,$(wildcard tests/cuda/*.c)))
$(CUDA_OBJ)/tests/%.o: INCLUDES = -Iinclude -Isrc -Itests $(addprefix -include ,stdarg.h stddef.h stdint.h setjmp.h)

-include $(wildcard $(CUDA_C:.o=.d) $(CUDA_CU:.o=.d) $(CUDA_OBJ)/tests/gpu/*.d $(CUDA_OBJ)/tests/cuda/*.d)

# --- What a machine with a GPU and nothing else can run ------------------------------------------------------------
# A build of its own without optional libraries, the others linked statically: the bundle needs the C library, the driver
# and nothing else (libcmocka lies beside the tests).
GPU_BUNDLE  := $(B)/gpu-bundle
GPU_STATIC  := -Wl,-Bstatic -ljansson -lpcre2-8 -lutf8proc -lnettle -Wl,-Bdynamic -lm
GPU_STAGES  ?= smoke,correct,sanitize,speed

.PHONY: gpu-bundle gpu-bundle-inside gpu-check
gpu-bundle: cuda-probe ## $(B)/gpu-bundle: program, tests, golden models and gpu_check.sh for a bare machine with a GPU
	+@$(SUBMAKE) B=$(B)/gpu WITHOUT='uring hwloc edit curl mpi' OPT=-O2 LDLIBS='$(GPU_STATIC)' \
	  LDFLAGS=-static-libgcc GPU_BUNDLE=$(GPU_BUNDLE) gpu-bundle-inside
gpu-bundle-inside: $(CUDA_PROGRAMS) $(CUDA_OBJ)/gpu_tests
	@scripts/gpu_bundle.sh '$(GPU_BUNDLE)' '$(CUDA_ARCHS)' '$(COMMIT)' $(B)/clocher.cuda $(CUDA_OBJ)/gpu_tests \
	  $(GPU_PROGRAMS) $(KERNEL_TESTS)

# All test programs in one, or each would have all kernels in it: the name that it is called by says which one it is.
GPU_PART := $(GPU_PROGRAMS:%=$(CUDA_OBJ)/part/gpu/%.o) $(KERNEL_TESTS:%=$(CUDA_OBJ)/part/cuda/%.o)
$(GPU_PART): $(CUDA_OBJ)/part/%.o: $(CUDA_OBJ)/tests/%.o
	@mkdir -p $(@D)
	$(Q)$(OBJCOPY) --redefine-sym main=main_$(*F) $< $@
$(CUDA_OBJ)/part/parts.h: FORCE
	$(call stamp,${GPU_PROGRAMS:%=PART(%)} ${KERNEL_TESTS:%=PART(%)})
$(CUDA_OBJ)/part/main.o: tests/gpu/bundle/main.c $(CUDA_OBJ)/part/parts.h $(CUDA_OBJ)/flags.stamp
	$(Q)$(COMPILE) -I. -DPARTS='"$(CUDA_OBJ)/part/parts.h"' -c -o $@ $<
$(CUDA_OBJ)/gpu_tests: $(CUDA_OBJ)/part/main.o $(GPU_PART) $(KERNEL_HELP) $(B)/tests/libsupport.a $(CUDA_C) $(CUDA_CU) \
  $(CUDA_HOST_OBJ)
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $^ -lcmocka $(CUDA_LIBS) $(LDLIBS)

gpu-check: ## runs gpu_check.sh of the bundle (STAGES=smoke,correct,sanitize,speed); results in docs/gpu/results
	@test -x $(GPU_BUNDLE)/gpu_check.sh || { echo "gpu-check: there is no bundle in $(GPU_BUNDLE): make gpu-bundle" >&2; exit 1; }
	@OUT="$${OUT:-$(CURDIR)/docs/gpu/results}" STAGES="$${STAGES:-$(GPU_STAGES)}" $(GPU_BUNDLE)/gpu_check.sh

# --- The same device over the emulator --------------------------------------------------------------------------
# mk/cuda_emulate.mk compiles the kernels and the runtime ($(EMU_LIB)) and has the rule for $(B)/emulated/%.c.o.
EMU_DEVICE_OBJ := $(patsubst %,$(B)/emulated/%.o,$(wildcard src/cuda/*.c))
EMU_GPU_BIN    := $(GPU_PROGRAMS:%=$(B)/emulated/gpu/%)

$(B)/clocher.emulated: $(CLI_OBJ) $(EMU_DEVICE_OBJ) $(CUDA_HOST_OBJ) $(B)/emulated/libkernels.a
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $^ $(LDLIBS) -lstdc++
$(EMU_GPU_BIN): $(B)/emulated/gpu/%: $(B)/emulated/tests/gpu/%.c.o $(B)/tests/libsupport.a $(EMU_DEVICE_OBJ) \
  $(CUDA_HOST_OBJ) $(B)/emulated/libkernels.a
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $^ -lcmocka $(LDLIBS) -lstdc++

-include $(wildcard $(EMU_DEVICE_OBJ:.o=.d) $(GPU_PROGRAMS:%=$(B)/emulated/tests/gpu/%.c.d))

# The device in emulation, gpu_check.sh with it, and where nvcc is found the real build for one architecture.
GPU_FOUND := $(shell command -v $(CXX) 2>/dev/null)
.PHONY: test-gpu
test-gpu: build $(if $(GPU_FOUND),$(EMU_GPU_BIN) $(B)/clocher.emulated $(B)/emulated/test_cuda_rows)
	@$(TEST_SH) run gpu $(if $(GPU_FOUND),$(GPU_TESTS:%=$(B)/emulated/gpu/%)) tests/gpu/check_devices.sh tests/gpu/check_script.sh tests/gpu/check_build.sh

# The device's host code and every kernel under AddressSanitizer and UndefinedBehaviorSanitizer: a load of 16 bytes that is
# not aligned, a shift too far, memory that a failure leaves behind. Threads of a block change stacks behind the
# sanitizer's back, so it must not keep frames elsewhere.
.PHONY: test-gpu-asan test-san-gpu
test-gpu-asan: ## the emulated device and its kernels under AddressSanitizer and UndefinedBehaviorSanitizer
	+@ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=0:allocator_may_return_null=1 \
	  $(SUBMAKE) B=$(B)/asan SAN=asan OPT='-O1 -g' RESULTS=$(B)/results test-san-gpu
test-san-gpu: $(if $(GPU_FOUND),$(addprefix $(B)/emulated/,$(KERNEL_TESTS) $(addprefix gpu/,$(filter-out %_golden,$(GPU_TESTS)))))
	@$(TEST_SH) run gpu-asan $(if $(GPU_FOUND),$^,tests/cuda/no_compiler.sh)
