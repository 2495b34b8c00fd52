# The demonstration: text from the model that ships in the repository.
DEMO_MODEL  ?= demo/model
DEMO_PROMPT ?= Once upon a time
DEMO_TOKENS ?= 200
DEMO_RUN = $(B)/clocher run --model-dir $(DEMO_MODEL) --prompt "$(DEMO_PROMPT)" --temperature 0.8 --max-new $(DEMO_TOKENS) --ceiling $(DEMO_FLAGS)

.PHONY: demo
demo: ## installs what is missing, builds, and streams text from the model in demo/model
	+@$(SUBMAKE) build
	@test -f $(DEMO_MODEL)/config.json || { echo "demo: there is no model in $(DEMO_MODEL) (config.json is missing)" >&2; exit 1; }
	@test -x $(B)/clocher || { echo "demo: the program $(B)/clocher was not built" >&2; exit 1; }
	@echo '$(DEMO_RUN)'
	@echo && printf '%s' "$(DEMO_PROMPT)" && $(DEMO_RUN)

# Hours. DATA holds train.txt, stories_train.txt, valid.txt and stories_valid.txt; stopped, it goes on when it is called
# again (demo/train/README.md).
DEMO_TRAIN_OUT ?= $(B)/demo-train
.PHONY: demo-model
demo-model: build ## trains the model that ships, and its dense twin: make demo-model DATA=DIR; hours
	@test -n "$(DATA)" || { echo "demo-model: DATA=DIR is missing" >&2; exit 2; }
	CLOCHER=$(abspath $(B)/clocher) demo/train/run.sh $(DATA) $(DEMO_TRAIN_OUT)
