# `make demo` and `make test` are all a new checkout needs: both create .venv on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := outputs/sandbox
# Tests run in parallel, one thread each.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
# mkdocs-material 9 prints a notice about its successor with every build.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

.PHONY: setup demo demo-losses test test-all lint types imports check docs docs-serve build clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.docs-ready: $(VENV)/.ready
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

# Sample graded responses, train on their labels alone, rerank held-out problems, all on the sandbox.
demo: setup
	$(BIN)/ipr-rollout output=$(DEMO)/train.jsonl
	$(BIN)/ipr-train loss=ce data.train=$(DEMO)/train.jsonl output_dir=$(DEMO)/ce overwrite=true
	$(BIN)/ipr-eval checkpoint=$(DEMO)/ce

# All four losses from the same rollouts.
demo-losses: setup
	$(BIN)/python scripts/compare_losses.py

test: setup
	$(PYTEST) -m 'not slow'

test-all: setup
	$(PYTEST) --hypothesis-profile=new-examples

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

check: lint types imports test

# The site, in site/. Warnings are errors. Nothing is fetched.
docs: $(VENV)/.docs-ready
	$(MKDOCS) build --strict

docs-serve: $(VENV)/.docs-ready
	$(MKDOCS) serve

# The sdist and the wheel, in dist/.
build: setup
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) outputs site dist
