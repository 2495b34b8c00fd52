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
