# The project's habits. `make help` explains them; every target prepares .venv itself.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install run test check format bench ci clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml $(shell find native -name '*.rs' -not -path '*/target/*') native/Cargo.toml native/Cargo.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "venv is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --editable '.[check]'
	@touch $@

install: $(STAMP) ## Prepare .venv with the commands lookupd and lookupd-loader

run: $(STAMP) ## A daemon in the foreground on loopback, on a sample store made on the first run
	@BIN=$(BIN) ./scripts/run-sample

test: $(STAMP) ## Every test that this machine can run
	$(BIN)/pytest

check: $(STAMP) ## Lint, format and types; run before each commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Put the code in its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure this machine; results go to bench/results/ (NUMBERS=20000000)
	$(BIN)/python -m bench --numbers $(or $(NUMBERS),20000000)

ci: ## What the gate runs
	.ci/run

clean: ## Remove what the targets made
	rm -rf $(VENV) .run build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
