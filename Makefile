# `make app` and `make test` need Python 3.11–3.13 and a package registry, nothing else.

PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/ready

# one process a core, up to four, each on one thread
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.PHONY: env app test quick bench lint clean

env: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and was not found; name one with PYTHON=..." >&2; exit 1; }
	@echo "Building the environment in .venv (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@# torch first and alone: the version that is known to work, before any package asks for a newer one
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $@

app: env
	$(BIN)/workbench app

test: env
	@sh tests/browser/chromium.sh
	$(TEST)

quick: env
	@sh tests/browser/chromium.sh
	$(TEST) -m "not slow"

bench: env
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

clean:
	rm -rf .venv build *.egg-info
