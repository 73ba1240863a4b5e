# The project's habits. `make help` explains them; every target prepares .venv itself.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

CARGO := $(shell command -v cargo)
RUST := $(wildcard native/Cargo.* native/src/*.rs native/src/*/*.rs native/src/*/*/*.rs)

.PHONY: help install run test check format messages fuzz bench faults ci clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml $(RUST)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "venv is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --editable '.[check]'
	@$(BIN)/lookupd engine
	@touch $@

install: $(STAMP) ## Prepare .venv with the commands lookupd and lookupd-loader

run: $(STAMP) ## A daemon in the foreground on loopback, on a sample store made on the first run
	@BIN=$(BIN) ./scripts/run-sample

test: $(STAMP) ## Every test that this machine can run
ifdef CARGO
	cargo test --quiet --manifest-path native/Cargo.toml
else
	@echo "Rust is missing: the native engine is neither built nor tested"
endif
	$(BIN)/pytest -n auto --dist worksteal --reruns 1

check: $(STAMP) ## Lint, format and types; run before each commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
ifdef CARGO
	cargo fmt --manifest-path native/Cargo.toml --check
	cargo fmt --manifest-path native/fuzz/Cargo.toml --check
	cargo clippy --quiet --manifest-path native/Cargo.toml --all-targets --features python -- -D warnings
endif

format: $(STAMP) ## Put the code in its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(CARGO),cargo fmt --manifest-path native/Cargo.toml)

messages: $(STAMP) ## Bring the catalogues to what the code says; print what is not translated yet
	$(BIN)/python scripts/messages update

fuzz: ## Search each parser of the native engine for faults (SECONDS=60 each)
	./scripts/fuzz $(or $(SECONDS),60)

bench: $(STAMP) ## Measure this machine; results go to bench/results/ (NUMBERS=20000000)
	$(BIN)/python -m bench --numbers $(or $(NUMBERS),20000000)

faults: $(STAMP) ## One replica of two killed, halted, cut off while clients ask; as root (FAULTS='--quick')
	$(BIN)/python -m bench.faults --with bench.handovers --with bench.fleet $(FAULTS)

ci: ## What the gate runs
	.ci/run

clean: ## Remove what the targets made
	rm -rf native/target native/fuzz/target lookupd/_native*.so
	rm -rf $(VENV) .run build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
