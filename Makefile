# One command each. The environment (.venv) is made on first use and remade when what it is built from changes.
# PYTHON=/path/to/python3.x chooses the interpreter; 3.11 to 3.13 are looked for by themselves.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test check bench sim jepsen jepsen-ci native asan clean distclean

VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 200
WORKERS ?= 2

help: ## this list
	@echo "dqlite-py: replicated SQLite inside a Python process"
	@echo
	@sed -nE 's/^([a-z-]+):.*## (.*)$$/  make \1\t\2/p' Makefile | expand -t 20
	@echo
	@echo "  PYTHON=python3.12 make test    choose the interpreter"
	@echo "  ARGS='...' make demo|test|bench  pass more arguments"

demo: ## three node processes on loopback, writes, kill -9 of the leader, every row compared
	@tools/environment runtime
	@$(BIN)/dqlite-py demo $(ARGS)

test: ## all tests
	@tools/environment dev
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup $(ARGS)

check: ## ruff, mypy --strict, import directions, tidy test
	@tools/environment dev
	@tools/check

bench: ## speed and memory beside dqlite, SQLite and others, written to results/ (ARGS=--quick, --full, --only GROUP, --publish)
	@tools/environment dev
	@$(BIN)/python -m tests.benchmarks $(ARGS)

sim: ## simulated clusters under faults (SEEDS=200 runs, or SEEDS=1000-1500)
	@tools/environment dev
	@DQLITE_SIM_SEEDS=$(SEEDS) $(BIN)/pytest -n $(WORKERS) tests/simulation -k "storm or seeds or marks" $(ARGS)

jepsen: ## real processes, every workload under every nemesis (TIME=seconds per run, KIND=namespaces|loopback)
	@tools/environment dev
	@$(BIN)/python -m jepsen all $(if $(TIME),--time $(TIME)) $(if $(KIND),--kind $(KIND)) $(ARGS)

jepsen-ci: ## a small fixed part of the jepsen suite, under three minutes
	@tools/environment dev
	@$(BIN)/python -m jepsen ci $(if $(KIND),--kind $(KIND)) $(ARGS)

native: ## rebuild the C extension
	@tools/environment runtime --rebuild

asan: ## the C code's tests under the address and undefined-behaviour sanitizers
	@tools/environment dev
	@native/asan_test.sh

clean: ## remove what was built, keep .venv
	@rm -rf build dist *.egg-info .demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@rm -f dqlite_py/*.so
	@rm -f $(VENV)/.made-from
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	@rm -rf $(VENV)
