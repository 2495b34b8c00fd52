# Checks that need no build. Each prints TAP; scripts/lint/README.md says what each one is for.
LINT_CHECKS := $(wildcard scripts/lint/check_*.sh)

.PHONY: lint format tidy
lint: ## formatting, sizes, include order, headers alone, forbidden calls and words
	@$(TEST_SH) one lint

format: ## rewrites every C file as .clang-format says
	clang-format -i $$(git ls-files '*.c' '*.h')

# Not a part of `make test`: what it says depends on its version.
tidy: ## static analysis by cppcheck, where it is installed
	cppcheck --std=c11 --enable=warning,performance --inline-suppr --error-exitcode=1 --quiet \
	  --suppress=missingIncludeSystem -D_GNU_SOURCE -D__x86_64__ -Iinclude -Isrc -j$(JOBS) src cli
