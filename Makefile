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
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help install demo test lint types docs build FORCE
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv and install subopt into it; does nothing when up to date

demo: $(STAMP) ## profile, recommend, and 100 training steps on a small LLaMA
	$(BIN)/subopt profile examples/llama_bytes.py --batches 4 -o $(DEMO)/profile.json
	$(BIN)/subopt recommend --gpu-mem 24G --profile $(DEMO)/profile.json -o $(DEMO)/recipe.yaml --force
	$(BIN)/subopt train $(DEMO)/recipe.yaml schedule.steps=100 schedule.warmup_steps=10 \
	  --output runs/demo --force

test: $(STAMP) ## run all tests
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## check types
	$(BIN)/mypy -p subopt

docs: $(STAMP) ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

build: $(STAMP) ## build the sdist and the wheel into dist/
	$(BIN)/python -m build

# The editable install is a tree of links, made file by file (setup.cfg), so a new file needs a new install.
# setuptools goes in first and builds without isolation: an install with nothing new to fetch works offline.
$(STAMP): pyproject.toml setup.cfg constraints.txt $(FILES) | $(BIN)/python
	$(BIN)/python -m pip install --constraint constraints.txt 'setuptools>=77'
	$(BIN)/python -m pip install --constraint constraints.txt --no-build-isolation --editable '.[dev]'
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
