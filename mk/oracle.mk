# The reference side: PyTorch and transformers beside the program. Nothing here is part of `make test`.
VENV ?= .venv
ORACLE = nice -n 5 $(VENV)/bin/python

.PHONY: venv golden test-oracle
venv: ## the Python environment of the reference side, in $(VENV) (6 GB, by pip)
	@tools/setup_venv.sh $(VENV)

golden: venv ## writes the golden models of tests/data/models anew
	$(ORACLE) tools/golden/gpt_oss.py --out tests/data/models
	$(ORACLE) tools/golden/dense.py --out tests/data/models

test-oracle: build venv $(B)/tests/test_adapter ## the program against transformers and PEFT: golden models written anew, the demo model, adapters
	@rm -rf $(B)/golden && mkdir -p $(B)/golden
	$(ORACLE) tools/golden/gpt_oss.py --out $(B)/golden
	$(ORACLE) tools/golden/compare.py --binary $(B)/clocher --same tests/data/models $(B)/golden \
	  --golden $(B)/golden --live demo/model
	$(ORACLE) tools/golden/adapter.py --binary $(B)/clocher --writer $(B)/tests/test_adapter \
	  --model tests/data/models/gpt-neox-parallel --model tests/data/models/qwen3 --model tests/data/models/llama3
