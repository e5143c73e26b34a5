# Two commands set everything up on a machine with Python 3.11: make quickstart, and make test.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: quickstart test check fix lock bench gpu golden chaos clean

quickstart: $(INSTALLED)  ## a small search on embedded digits, nothing to download but the packages
	@$(BIN)/hpo optimize quickstart --trials 40
	@echo "  hpo optimize cnn --trials 200       (the real search, on MNIST)"
	@echo "all of them in this environment: . .venv/bin/activate"

# Two processes more than there are cores: many tests wait for what they have started.
test: $(INSTALLED)  ## the whole test suite
	$(BIN)/python -m pytest -n $$(($$(nproc) + 2)) --maxschedchunk 1

check: $(INSTALLED)  ## what a change must pass besides: style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(INSTALLED)  ## mends what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(INSTALLED)  ## the packages of the container's image: those of this environment, with their hashes
	@$(PYTHON) -m venv .lock
	@.lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/python -m pip list --format freeze --exclude-editable --disable-pip-version-check > .lock/here.txt
	@echo hatchling | .lock/bin/uv pip compile --quiet --extra postgresql --constraint .lock/here.txt --generate-hashes \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate --no-header \
		--output-file .lock/all.txt pyproject.toml -
	@echo '# Made by make lock. PyTorch is in torch.lock, and brings the packages that a GPU needs.' > deploy/requirements.lock
	@awk '/^[a-z]/ { of_torch = /^(torch|torchvision|triton|cuda-[^=]+|nvidia-[^=]+)==/ } !of_torch' .lock/all.txt \
		>> deploy/requirements.lock
	@grep --only-matching --extended-regexp '^(torch|torchvision)==[^ ]+' .lock/all.txt > deploy/torch.lock
	@rm -rf .lock

bench: $(INSTALLED)  ## what documents claim about speed, searching and intervals, measured again (an hour, alone on the machine)
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.pruners
	$(BIN)/python -m benchmarks.coverage

gpu: $(INSTALLED)  ## the tests of a GPU, and tables of its speed beside rivals, into gpu/ (four minutes; HPO_DATA has MNIST)
	$(BIN)/python -m benchmarks.gpu

golden: $(INSTALLED)  ## what studies measured once, measured again (a quarter of an hour; HPO_DATA names the folder of MNIST)
	$(BIN)/python -m tests.golden

chaos: $(INSTALLED)  ## studies under fire, ten runs of every scenario (hours; resumable; some need root)
	$(BIN)/python -m tests.chaos
	HPO_EXAMPLES=100 $(BIN)/python -m pytest -n auto tests/storage/test_stateful.py tests/storage/test_foreign.py tests/cli/test_properties.py tests/dashboard/test_access_properties.py tests/workers/test_worker.py

clean:  ## the environment and caches; hpo.db is left, for it holds results
	rm -rf .venv .mypy_cache .pytest_cache .hypothesis .ruff_cache

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hpo needs Python 3.11 or later: make PYTHON=python3.11")'
	@echo "installing hpo and its packages into .venv (PyTorch is large: a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,postgresql]'
	@touch $@
