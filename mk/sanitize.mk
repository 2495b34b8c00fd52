# Sanitizer builds: the same rules in an object folder of their own, $(B)/asan and $(B)/tsan.
SAN_FLAGS_asan := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_FLAGS_tsan := -fsanitize=thread -fno-omit-frame-pointer
SAN_FLAGS := $(SAN_FLAGS_$(SAN))
ifneq ($(SAN),)
ifeq ($(SAN_FLAGS),)
$(error SAN=$(SAN): expected asan or tsan)
endif
# What is found ends the test; a leak is an error.
export ASAN_OPTIONS  ?= detect_leaks=1:abort_on_error=0:detect_stack_use_after_return=1:strict_string_checks=1:allocator_may_return_null=1
export UBSAN_OPTIONS ?= print_stacktrace=1
export TSAN_OPTIONS  ?= halt_on_error=1:second_deadlock_stack=1
endif

# Tests whose code runs in several threads; the rest cannot show a race. test_NAME stands for what begins so.
TSAN_NAMES := team% train_data% bpe_train% twins% golden% quantised% tokenizer_pack% scheduler% conversation% synth% reader% expert_cache% streaming% serve% optimisers%
TSAN_TESTS ?= $(filter $(TSAN_NAMES:%=test_%),$(TESTS))

.PHONY: asan tsan
asan: ## everything under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(TEST_SH) one asan
tsan: ## the tests of the thread team and of what runs on it under ThreadSanitizer
	@$(TEST_SH) one tsan
