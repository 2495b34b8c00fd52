# Benchmarks of parts: benchmarks/bench_NAME.c, each a program that prints what it measured beside the machine's
# own limits. (`clocher bench` measures the whole.)
BENCHES   := $(patsubst benchmarks/%.c,%,$(wildcard benchmarks/bench_*.c))
BENCH_BIN := $(BENCHES:%=$(B)/benchmarks/%)

.PHONY: benchmarks
benchmarks: $(BENCH_BIN) ## builds benchmarks/bench_*.c into B/benchmarks

$(BENCH_BIN): $(B)/benchmarks/%: $(B)/benchmarks/%.o $(INTERNAL_LIB)
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $^ $(LDLIBS)

-include $(wildcard $(BENCH_BIN:%=%.d))

# Shares of the ceiling against the committed baseline; not part of the tests, as it wants a quiet machine. UPDATE=1
# writes the baseline. SPEED_MODELS names a folder with the models; they are synthesised where they are missing.
SPEED_MODELS ?= $(B)/speed
.PHONY: speed-gate
speed-gate: $(B)/clocher ## fails when a speed falls by 5% (wants a quiet machine)
	$(Q)mkdir -p $(SPEED_MODELS) && scripts/speed_gate.sh $(B)/clocher $(SPEED_MODELS) $(UPDATE)
