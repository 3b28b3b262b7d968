# make reproduce               environment, then every notebook of the profile, then the report
# make reproduce PROFILE=cifar another profile (a folder of notebooks/profiles)
# make test                    environment, then every test, on all cores
# make lint                    ruff over code and notebooks, the order of the rooms, types
PYTHON ?= python3
PROFILE ?= desk
VENV := .venv
BIN := $(VENV)/bin
# Threads that wait spinning make small models ten times slower on a shared machine; this long costs nothing.
export GOMP_SPINCOUNT ?= 10000

.PHONY: reproduce test lint
reproduce: $(VENV)/installed
	$(BIN)/lficam reproduce --profile $(PROFILE)

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "lficam needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": try make PYTHON=python3.12")'
	@echo "Installing into $(VENV) (about 6 GB with PyTorch; once, some minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
