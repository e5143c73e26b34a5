# Two commands set everything up on a machine with Python 3.11: make quickstart, and make test.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: quickstart test check fix bench chaos clean

quickstart: $(INSTALLED)  ## a small search on embedded digits, nothing to download but the packages
	@$(BIN)/hpo optimize --study quickstart --trials 40
	@echo "  hpo optimize --study cnn --trials 200       (the real search, on MNIST)"
	@echo "all of them in this environment: . .venv/bin/activate"

test: $(INSTALLED)  ## the whole test suite
	$(BIN)/python -m pytest -n auto

check: $(INSTALLED)  ## what a change must pass besides: style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(INSTALLED)  ## mends what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)  ## what documents claim about speed and about searching, measured again (an hour, alone on the machine)
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.pruners

chaos: $(INSTALLED)  ## studies under fire, ten runs of every scenario (hours; resumable; some need root)
	$(BIN)/python -m tests.chaos

clean:  ## the environment and caches; hpo.db is left, for it holds results
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hpo needs Python 3.11 or later: make PYTHON=python3.11")'
	@echo "installing hpo and its packages into .venv (PyTorch is large: a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,postgresql]'
	@touch $@
