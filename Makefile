# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set up .venv on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := outputs/sandbox
# Tests at a time, each on one thread.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.PHONY: demo demo-losses test test-all check setup clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# Sample graded responses, train on their labels alone, rerank held-out problems: the whole road on the sandbox.
demo: setup
	$(BIN)/ipr-rollout output=$(DEMO)/train.jsonl
	$(BIN)/ipr-train loss=ce data.train=$(DEMO)/train.jsonl output_dir=$(DEMO)/ce overwrite=true
	$(BIN)/ipr-eval checkpoint=$(DEMO)/ce

# The README's table: all four losses from the same rollouts.
demo-losses: setup
	$(BIN)/python scripts/compare_losses.py

test: setup
	$(PYTEST) -m 'not slow'

test-all: setup
	$(PYTEST)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -m 'not slow'

clean:
	rm -rf $(VENV) outputs
