# Every target makes what it needs. `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# What shows in minutes whether other versions of Python or of the libraries will do.
QUICK  := -m "not slow" tests/test_cli.py tests/test_engine.py tests/test_geometry.py tests/test_recipe.py \
          tests/test_registry.py tests/test_tokens.py tests/test_train.py plugins/toy plugins/objectives plugins/schedules \
          plugins/masking

.PHONY: install demo test test-lowest test-python format lint type docs bench check clean

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

# Exactly the lower bounds of pyproject.toml. Old releases warn of what newer ones will drop: that is no failure here.
test-lowest: $(READY)
	rm -rf .venv-lowest && $(BIN)/uv venv --quiet --python $(BIN)/python .venv-lowest
	VIRTUAL_ENV=.venv-lowest $(BIN)/uv pip install --quiet --resolution lowest-direct --editable ".[dev]"
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -n 2 --dist worksteal -W ignore::DeprecationWarning $(QUICK)

# Another Python with the pinned versions: make test-python OTHER=3.13
OTHER ?= 3.13
test-python: $(READY)
	rm -rf .venv-$(OTHER) && $(BIN)/uv venv --quiet --python $(OTHER) .venv-$(OTHER)
	VIRTUAL_ENV=.venv-$(OTHER) $(BIN)/uv pip install --quiet --constraint constraints.txt --editable ".[dev]"
	OMP_NUM_THREADS=1 .venv-$(OTHER)/bin/python -m pytest -q -n 2 --dist worksteal $(QUICK)

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
	rm -rf $(VENV) .venv-* dist .pytest_cache .ruff_cache
