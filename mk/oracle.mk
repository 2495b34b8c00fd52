# The reference side: PyTorch and transformers beside the program. Nothing here is part of `make test`.
VENV ?= .venv
ORACLE = nice -n 5 $(VENV)/bin/python

# A larger text for the tokenizer's trainer, where there is one.
BPE_TEXT := $(wildcard $(CLOCHER_TEST_DATA:%=%/data/text/valid.txt))

.PHONY: venv golden test-oracle
venv: ## the Python environment of the reference side, in $(VENV) (6 GB, by pip)
	@tools/setup_venv.sh $(VENV)

golden: venv ## writes the golden models of tests/data/models anew
	$(ORACLE) tools/golden/gpt_oss.py --out tests/data/models
	$(ORACLE) tools/golden/dense.py --out tests/data/models
	$(ORACLE) tools/golden/optimisers.py --out tests/data/training

test-oracle: build venv $(B)/tests/test_adapter ## the program against transformers, PEFT and tokenizers: golden models written anew, the demo model, adapters, trained models and tokenizers
	@rm -rf $(B)/golden && mkdir -p $(B)/golden
	$(ORACLE) tools/golden/gpt_oss.py --out $(B)/golden
	$(ORACLE) tools/golden/dense.py --out $(B)/golden
	$(ORACLE) tools/golden/compare.py --binary $(B)/clocher --same tests/data/models $(B)/golden \
	  --golden $(B)/golden --live demo/model
	$(ORACLE) tools/golden/adapter.py --binary $(B)/clocher --writer $(B)/tests/test_adapter \
	  --model tests/data/models/gpt-neox-parallel --model tests/data/models/qwen3 --model tests/data/models/llama3
	$(ORACLE) tools/golden/trained.py --binary $(B)/clocher
	$(ORACLE) tools/golden/bpe_train.py --binary $(B)/clocher $(BPE_TEXT:%=--text % --vocab 4096)
	$(ORACLE) tools/demo_report.py --self-check
