# `make bench` and `make test` work on a fresh clone with Python >= 3.10, a C compiler and make.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: setup bench test check lint clean

setup: .venv/.ready

# The venv is ready when its marker is newer than what it was made from.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

bench: setup
	$(BIN)/rlsuite bench benchmarks/quick.toml

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests

check: setup
	$(BIN)/rlsuite check

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info
