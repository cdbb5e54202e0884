# `make demo` and `make test` are the two commands of the README; every other target builds on `install`.
PYTHON ?= $(shell command -v python3.12 >/dev/null 2>&1 && python3.12 -c 'import venv, ensurepip' >/dev/null 2>&1 && echo python3.12 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= auto

.PHONY: install demo test test-all model lint format bench soak clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "avtomatika needs Python 3.11 or later; set PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,flower,gpu,operations,postgres]' --group dev
	@touch $@

demo: install
	$(BIN)/avtomatika demo

test: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

# The model of the engine, at length: MODEL_EXAMPLES=10000 make model
model: install
	MODEL_EXAMPLES=$${MODEL_EXAMPLES:-5000} $(BIN)/python -m pytest --timeout 0 --hypothesis-show-statistics tests/unit/engine/test_model.py

test-all: install
	AVTOMATIKA_ALL_TESTS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/python -m benchmarks

soak: install
	$(BIN)/python -m tests.soak

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-output dist build
