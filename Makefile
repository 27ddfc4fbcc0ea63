# `make` prints this list. Every target makes its own environment in .venv when there is none.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test check cost fix clean

help: ## print this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: .venv/ready ## watch a loop with three bugs, then one without
	@echo '$$ loopkit run examples/digits_with_bugs.py'
	@$(BIN)/loopkit run examples/digits_with_bugs.py; code=$$?; test $$code -le 1
	@echo
	@echo '$$ loopkit run examples/digits.py'
	@$(BIN)/loopkit run examples/digits.py

test: check ## ruff, mypy and the whole test suite
	$(BIN)/python -m pytest -q -n 2

check: .venv/ready ## ruff and mypy alone
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy

cost: .venv/ready ## what watching costs: watched over bare, in pairs
	$(BIN)/python -m tests.cost

fix: .venv/ready ## format, and repair what ruff can
	$(BIN)/ruff format -q .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch is pinned by the constraints file, and comes first: an open range in another package would pull its
# newest build, with gigabytes of CUDA.
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@
