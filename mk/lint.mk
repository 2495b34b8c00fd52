# Checks that need no build. Each prints TAP; scripts/lint/README.md says what each one is for.
LINT_CHECKS := $(wildcard scripts/lint/check_*.sh)

.PHONY: lint format tidy
lint: ## formatting, sizes, include order, headers alone, forbidden calls and words
	@$(TEST_SH) one lint

format: ## rewrites every C file as .clang-format says
	clang-format -i $$(git ls-files '*.c' '*.h')
