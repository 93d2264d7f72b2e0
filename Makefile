# Needs Python 3.11+, make and pip. PYTHON=python3.13 builds and uses an environment of its own.
PYTHON ?= python3
DB ?=
BACKEND ?= asyncio

VENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all check docs format clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python -m horsies demo --db '$(DB)' --backend $(BACKEND)

test: $(STAMP)
	$(BIN)/python -m pytest tests

test-all: $(STAMP)
	HORSIES_TEST_UVLOOP=1 HORSIES_TEST_PG_VERSION=16 $(BIN)/python -m pytest tests
	$(MAKE) test PYTHON=$(PYTHON)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/architecture
	$(BIN)/sphinx-build -q -W -b html docs docs/_build

docs: $(STAMP)
	$(BIN)/sphinx-build -W -b html docs docs/_build

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-* docs/_build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
