# Set-up: install what is missing, then ask pkg-config once and keep the answer in $(B)/config.mk.
# Goals that promise to do all the set-up install packages; every other goal only says what is missing.
SETUP_BUILD_GOALS := demo
SETUP_TEST_GOALS  := test check $(filter test-% lint-%,$(MAKECMDGOALS)) lint asan tsan fuzz
NO_CONFIG_GOALS   := help clean setup lint lint-% uninstall

.PHONY: setup
setup: ## installs every package that building, testing and linting can use (apt)
	@scripts/setup.sh all

# Runs while this file is read, because pkg-config is asked right after. Not in a sub-make, not for make -n.
SETUP_LEVEL := $(if $(filter $(SETUP_TEST_GOALS),$(MAKECMDGOALS)),test,$(if $(filter $(SETUP_BUILD_GOALS),$(MAKECMDGOALS)),build))
DRY_RUN := $(findstring n,$(filter-out --%,$(firstword $(MAKEFLAGS))))
ifeq ($(MAKELEVEL)$(DRY_RUN),0)
ifneq ($(SETUP_LEVEL),)
ifneq ($(shell CC='$(CC)' scripts/setup.sh $(SETUP_LEVEL) >&2 && echo ok),ok)
$(error The set-up is not complete; the lines above say what is missing)
endif
endif
endif

# GNU make makes an included file that is missing or old, and starts again.
ifneq ($(filter-out $(NO_CONFIG_GOALS),$(or $(MAKECMDGOALS),build)),)
$(B)/config.mk: scripts/probe.sh
	@mkdir -p $(@D)
	@CC='$(CC)' PKG_CONFIG='$(PKG_CONFIG)' WITHOUT='$(WITHOUT)' REQUIRED='$(LIBS_REQUIRED)' \
	  OPTIONAL='$(LIBS_OPTIONAL)' scripts/probe.sh > $@.tmp && mv $@.tmp $@
include $(B)/config.mk
# Another compiler, another choice, or packages installed since: ask again.
ifneq ($(CONFIG_FOR),$(CC)|$(PKG_CONFIG)|$(WITHOUT)|$(LIBS_REQUIRED)|$(LIBS_OPTIONAL))
$(B)/config.mk: FORCE
endif
endif
