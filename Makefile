# Needs Python 3.11+, make and pip. PYTHON=python3.13 builds and uses an environment of its own.
PYTHON ?= python3
DB ?=
BACKEND ?= asyncio
ARGS ?=
# Processes that test, each with an embedded Postgres of its own. A server that is given serves one at a time: tests count
# its sessions, and end them.
JOBS ?= $(if $(HORSIES_TEST_DATABASE_URL),0,2)

VENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
LOWEST := $(VENV)-lowest
LOWEST_STAMP := $(LOWEST)/.installed

.PHONY: demo test test-all test-lowest test-deep mutations chaos bench bench-growth check docs format clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@

$(LOWEST_STAMP): pyproject.toml tests/lowest.py
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python tests/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/constraints.txt \
	  -e '.[trio,uvloop,embedded]' attrs hatchling hypothesis pydantic pytest pytest-timeout pytest-xdist sqlalchemy
	touch $@

# DB: empty for an embedded Postgres, "sqlite", or a database URL. BACKEND: asyncio or trio.
demo: $(STAMP)
	$(BIN)/python -m horsies demo --db "$(DB)" --backend "$(BACKEND)"

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests

# The other embedded version and uvloop beside what `test` runs. HORSIES_TEST_DATABASE_URL brings another server;
# Debian's package pgbouncer the tests of the pooler, in `test` as well.
test-all: $(STAMP)
	HORSIES_TEST_UVLOOP=1 HORSIES_TEST_PG_VERSION=16 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests
	HORSIES_TEST_UVLOOP=1 HORSIES_TEST_PG_VERSION=18 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests
	@test -n "$$HORSIES_TEST_DATABASE_URL" || \
	  echo "Not run: PostgreSQL 14, 15 and 17, which no wheel carries. Start one, give HORSIES_TEST_DATABASE_URL."
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v pgbouncer > /dev/null || \
	  echo "Not run: PgBouncer, which is not installed here. On Debian: apt install pgbouncer."

# The suite with the lowest versions that pyproject.toml allows, in an environment of its own. Python 3.11 has wheels of
# all of them.
test-lowest: $(LOWEST_STAMP)
	$(LOWEST)/bin/python -m pytest -n $(JOBS) --dist worksteal tests/unit tests/brokers tests/flow tests/plugins tests/cli

# Hypothesis, the simulation and cancellation at every step, at length: about half an hour.
test-deep: $(STAMP)
	HORSIES_DEEP=1 $(BIN)/python -m pytest tests/property tests/chaos/test_cancellation.py --timeout=3600

# Breaks each guard of the brokers in turn; prints the tables of docs/mutations.md.
mutations: $(STAMP)
	$(BIN)/python tests/mutations/run.py

# Worker processes and a Postgres that are killed, frozen and cut off, at full length; prints the table of docs/chaos.md.
chaos: $(STAMP)
	$(BIN)/python -m tests.chaos

# Beside its peers, which this installs; forty minutes. DB: a Postgres where databases may be made, or empty for an
# embedded one. ARGS: further options; --help shows them, --docs renews docs/performance.
bench: $(BENCH_STAMP)
	$(BIN)/python -m benchmarks $(if $(DB),--url "$(DB)") $(ARGS)

# What a claim costs with millions in the table, and how far the table grows; prints the tables of docs/growth.md.
bench-growth: $(STAMP)
	$(BIN)/python -m benchmarks.growth --db "$(DB)" --backend "$(BACKEND)" $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/architecture

docs: $(STAMP)
	$(BIN)/sphinx-build -W -b html docs docs/_build

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-* docs/_build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
