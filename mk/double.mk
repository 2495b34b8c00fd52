# The gradient checks: base to models, compiled a second time with `real` as double (base/real.h), and tests/double.
#
# The scalar kernels are the only ones there, and launchers of inference are left out: they read packed products of
# floats. tests/double/absent.c stands in for them.
DOUBLE_ABSENT := $(addprefix src/tensor/,cpu_attention.c cpu_linear.c cpu_moe.c cpu_product.c quantise.c)
DOUBLE_SRC := $(filter-out $(DOUBLE_ABSENT),$(wildcard src/kernels/scalar/*.c \
  $(foreach layer,base blocks formats kernels tensor ops models,src/$(layer)/*.c)))
DOUBLE_TESTS := $(patsubst tests/double/%.c,%,$(wildcard tests/double/test_*.c))
DOUBLE_HELP  := $(filter-out tests/double/test_%,$(wildcard tests/double/*.c))
DOUBLE_OBJ := $(DOUBLE_SRC:%.c=$(B)/double/%.o)
DOUBLE_TEST_OBJ := $(patsubst %.c,$(B)/double/%.o,$(wildcard tests/double/*.c))

# A caller that names the tests means just those.
ifneq ($(origin TESTS),command line)
TESTS    += $(DOUBLE_TESTS)
TEST_BIN += $(DOUBLE_TESTS:%=$(B)/tests/%)
endif

# What is narrowed to a float on purpose (files, tables of angles) is so in both builds.
$(B)/double/%.o: DEFINES = -DIE_REAL_DOUBLE -Wno-float-conversion
$(B)/double/tests/%.o: INCLUDES = -Iinclude -Isrc -Itests $(addprefix -include ,stdarg.h stddef.h stdint.h setjmp.h)
$(B)/double/%.o: %.c $(B)/flags.stamp
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(COMPILE) -c -o $@ $<

$(B)/double/libclocher.a: $(DOUBLE_OBJ)
	$(call say,AR)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(DOUBLE_TESTS:%=$(B)/tests/%): $(B)/tests/%: $(B)/double/tests/double/%.o \
  $(DOUBLE_HELP:%.c=$(B)/double/%.o) $(B)/double/libclocher.a
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $^ -lcmocka $(LDLIBS)

-include $(wildcard $(DOUBLE_OBJ:.o=.d) $(DOUBLE_TEST_OBJ:.o=.d))
