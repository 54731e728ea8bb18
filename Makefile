# Everything runs in .venv, which any target makes from nothing. `make help` lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed.stamp
# What the package is made of. It lies in build/ beside the link tree of the editable install, so that
# removing build/ makes the next target install again.
FILES  := build/package-files.txt

DEMO   := .subopt/demo
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One thread for each test process: small matrices gain nothing from more, and the workers share the cores.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
  $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

# Benchmarks run beside other implementations, in an environment of their own.
BENCH       := .venv-bench
BENCH_STAMP := $(BENCH)/installed.stamp
BENCHMARK   := $(BENCH)/bin/python benchmarks
SIZE        ?= 60m
ARGS        ?=

.PHONY: help install demo test test-fast lint types docs build FORCE
.PHONY: bench-advice bench-env bench-steps bench-kernels bench-profile bench-memory bench-reasons bench-curves
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv and install subopt into it; does nothing when up to date

demo: $(STAMP) ## profile, recommend, find the rate, and 100 training steps on a small LLaMA
	$(BIN)/subopt profile examples/llama_bytes.py --batches 4 -o $(DEMO)/profile.json
	$(BIN)/subopt recommend --gpu-mem 24G --steps 100 --profile $(DEMO)/profile.json \
	  -o $(DEMO)/recipe.yaml --force
	$(BIN)/subopt train $(DEMO)/recipe.yaml --race --output runs/demo --force

test: $(STAMP) ## run all tests
	$(PYTEST)

test-fast: $(STAMP) ## run the tests that take no process of their own, no browser and no documentation
	$(PYTEST) -m 'not (slow or process or browser)' --ignore tests/docs --ignore tests/browser \
	  --ignore tests/packaging --ignore tests/optimizers/torch_harness

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## check types
	$(BIN)/mypy -p subopt

docs: $(STAMP) ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

build: $(STAMP) ## build the sdist and the wheel into dist/
	$(BIN)/python -m build

bench-advice: $(STAMP) ## judge the advice on small tasks, half of them held out; ARGS=render from the rows alone
	$(BIN)/python benchmarks/bench_advice.py $(ARGS)

bench-env: $(BENCH_STAMP) ## make .venv-bench: subopt and the packages of benchmarks/peers.txt

bench-steps: $(BENCH_STAMP) ## time optimizer steps beside other implementations; SIZE=130m, ARGS="--only fast"
	$(BENCHMARK)/bench_steps.py --size $(SIZE) $(ARGS)

bench-kernels: $(BENCH_STAMP) ## time online PCA and refreshed bases beside torch's; ARGS=--large
	$(BENCHMARK)/bench_kernels.py $(ARGS)

bench-profile: $(BENCH_STAMP) ## time spectra of gradients beside singular values
	$(BENCHMARK)/bench_profile.py --section spectrum --section singular --fresh $(ARGS)

bench-memory: $(BENCH_STAMP) ## measure peak memory of a step against its prediction
	$(BENCHMARK)/bench_step_memory.py $(ARGS)

bench-reasons: $(BENCH_STAMP) ## time what was tried where a goal is missed
	$(BENCHMARK)/bench_reasons.py $(ARGS)

bench-curves: $(BENCH_STAMP) ## measure how costs grow with width and depth, and draw it
	$(BENCHMARK)/bench_curves.py $(ARGS)

# The editable install is a tree of links, made file by file (setup.cfg), so a new file needs a new install.
# setuptools goes in first and builds without isolation: an install with nothing new to fetch works offline.
$(STAMP): pyproject.toml setup.py setup.cfg constraints.txt $(FILES) | $(BIN)/python
	$(BIN)/python -m pip install --constraint constraints.txt 'setuptools>=77'
	$(BIN)/python -m pip install --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@

# Lenient: a second tree of links would be made in the place of the first.
$(BENCH_STAMP): benchmarks/peers.txt pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --constraint constraints.txt 'setuptools>=77'
	$(BENCH)/bin/python -m pip install --constraint constraints.txt --no-build-isolation \
	  --config-settings editable_mode=lenient --editable . --requirement benchmarks/peers.txt
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "subopt needs Python 3.10 or newer: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python's venv module is missing: on Debian or Ubuntu, apt install python3-venv" >&2; exit 1; }

# Written only when the list changes, so that an unchanged list installs nothing.
$(FILES): FORCE
	@mkdir -p $(@D)
	@find subopt_cli profilers optimizers recipes -type f ! -name '*.pyc' | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
FORCE:
