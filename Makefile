# Everything runs in .venv, which is made here and brought up to date when pyproject.toml changes.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
# setuptools warns of the folder `autoshard` in the folder that it is asked to install.
PIP := PYTHONWARNINGS='ignore:Editable installation' $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest

# Two workers: each test compiles with XLA, which brings threads of its own.
WORKERS ?= 2

TREE := build/tree

.PHONY: help demo test test-all lint format wheel-test clean
.DEFAULT_GOAL := help

help:
	@echo "make demo        plan a small GPT on an emulated (2,4) mesh and train it for a minute"
	@echo "make test        lint, then every test that is quick"
	@echo "make test-all    also the slow ones and those on third-party models"
	@echo "make lint        ruff, codespell, import-linter, pyright"
	@echo "make format      let ruff mend what it can"
	@echo "make wheel-test  build the wheel, install it elsewhere, import everything"
	@echo "make clean       remove caches and builds, keep .venv"

demo: .venv/.installed
	$(BIN)/autoshard train --mesh data=2,model=4 --emulate 8

test: .venv/.installed-dev
	$(MAKE) lint
	$(PYTEST) -n $(WORKERS) -m "not slow and not external"

test-all: .venv/.installed-all
	$(MAKE) lint
	$(PYTEST) -n $(WORKERS)

wheel-test: .venv/.installed-dev
	$(PYTEST) -m slow tests/test_packaging.py

lint: .venv/.installed-dev $(TREE)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	cd $(TREE) && $(CURDIR)/$(BIN)/lint-imports --no-cache --config $(CURDIR)/pyproject.toml
	$(BIN)/basedpyright --project pyproject.toml --warnings | sed -E 's#$(TREE)/autoshard/(cli|cost_model|models)/#\1/#; s#$(TREE)/##'

format: .venv/.installed-dev
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path './.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The import package as it installs, for static tools, which cannot follow setuptools' renamed
# folders. Copies, for through symlinks pyright takes one class for two.
.PHONY: $(TREE)
$(TREE):
	@rm -rf $@ && mkdir -p $@
	@cp -R autoshard $@/
	@cp -R cli cost_model models $@/autoshard/

.venv/.installed: pyproject.toml setup.py | .venv/bin/pip
	$(PIP) --editable .
	@touch $@

.venv/.installed-dev: pyproject.toml setup.py | .venv/bin/pip
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/.installed

.venv/.installed-all: pyproject.toml setup.py | .venv/bin/pip
	$(PIP) --editable '.[dev,external,tpu]'
	@touch $@ .venv/.installed .venv/.installed-dev

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "autoshard needs Python 3.11 or later, '$(PYTHON)' is not: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "'$(PYTHON)' cannot make a virtual environment. On Debian or Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
