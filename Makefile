# Every target makes what it needs. `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: install demo test format lint type docs bench check clean

install: $(READY)

$(READY): pyproject.toml constraints.txt plugins/*/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(READY)
	$(BIN)/salt demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal

format: $(READY)
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(READY)
	$(BIN)/pyright

docs: $(READY)
	$(BIN)/pytest -q tests/test_docs.py

bench: $(READY)
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/predictor_cost.py
	$(BIN)/python benchmarks/clip_loading.py
	$(BIN)/python benchmarks/teachers.py
	$(BIN)/python benchmarks/latent_cache.py
	$(BIN)/python benchmarks/cached_training.py

check: lint type test

clean:
	rm -rf $(VENV) dist .pytest_cache .ruff_cache
