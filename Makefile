# Two commands do everything on a fresh machine:
#   make sweep    install, run the study's format sweep, say where the results lie
#   make test     install, run the tests
# Everything is installed into .venv of this folder, once; a changed pyproject.toml or constraints.txt
# installs again. PYTHON=... names another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SWEEP_OUT := $(or $(SWEEP_OUT),runs/sweep-$(shell date +%Y%m%d-%H%M%S))
SWEEP_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install install-dev sweep test campaign lint format bench constraints clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## install altgrad into .venv
install-dev: $(VENV)/.installed-dev ## install altgrad with everything the checks need

sweep: install ## run the study: every format and its controls (SWEEP_ARGS="...", SWEEP_OUT=DIR)
	$(BIN)/altgrad sweep --no-retries --order e5m2,e3m4,e1m6,e0m7,e7m0 --out $(SWEEP_OUT) $(SWEEP_ARGS)
	@echo "results: $(SWEEP_OUT); to have altgrad on the PATH: . $(BIN)/activate"

test: install-dev ## run the tests (PYTEST_ARGS="...")
	$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

campaign: install-dev ## run the long campaigns that `make test` leaves out
	$(BIN)/python -m pytest -m campaign

lint: install-dev ## check style, types and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-dev ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## measure against the neighbouring tools, in a .venv of their own (BENCH_ARGS="--quick")
	PYTHON=$(abspath $(BIN)/python) bash benchmarks/run.sh $(BENCH_ARGS)

constraints: ## write constraints.txt from a clean install of the newest allowed versions
	bash scripts/write-constraints.sh "$(PYTHON)"

clean: ## remove what the tools left behind (runs and sweeps stay)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find altgrad_cli tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "altgrad needs Python 3.11 or newer; name one with: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing altgrad into $(VENV), which takes minutes the first time"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing altgrad and its checks into $(VENV), which takes minutes the first time"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed
