# `make` alone lists what can be done.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON := .venv/bin/python
# Of the functions. What runs on this machine must be of its kind; `cdk deploy` takes cdk.json's.
ARCHITECTURE ?= $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,x86_64)
STAGE ?= dev
SYNTH_OUT := build/cdk.out
# Writes docs/openapi.json from the routes; with --check it only compares.
OPENAPI := $(PYTHON) -m functions.operator_api.document
DEMO := $(PYTHON) -m local.demo

export PYTHONPATH := $(CURDIR):$(CURDIR)/layers/shared/python:$(CURDIR)/layers/ml/python:$(CURDIR)/agent:$(CURDIR)/cli

.PHONY: help setup lock layer synth check check-code check-imports check-templates check-layers check-openapi test demo \
        simulate simulate-mutants bench-prices bench-sync bench-fence bench-decide train backtest walkthrough failover-table \
        openapi clean

help: ## List what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv with Python 3.13 and the hashed requirements (quick when nothing changed)
	@requirements/set_up.sh

lock: setup ## Compile requirements/*.in again into hashed *.txt
	@requirements/lock.sh

layer: setup ## Build the Lambda layer for ARCHITECTURE=arm64|x86_64, without Docker
	@$(PYTHON) -m layers.build $(ARCHITECTURE)

synth: setup ## Write the CloudFormation templates to build/cdk.out
	@$(PYTHON) -m infra.synth --architecture $(ARCHITECTURE) --stage $(STAGE) --out $(SYNTH_OUT)

check: setup check-code check-imports check-layers check-templates check-openapi ## Style, types, imports, templates, state machines, layers, OpenAPI
	@echo "check: all green"

check-code:
	@echo "ruff";  .venv/bin/ruff check . && .venv/bin/ruff format --check --quiet .
	@echo "mypy";  .venv/bin/mypy

check-imports:
	@echo "import contracts"; .venv/bin/lint-imports

check-layers:
	@echo "layers"; $(PYTHON) -m layers.build arm64 x86_64

check-templates:
	@echo "templates"; $(MAKE) synth
	@# W3005: CDK orders a function after its role's policy on purpose, and names the role along with it
	@.venv/bin/cfn-lint --ignore-checks W3005 -- $(SYNTH_OUT)/*.template.json
	@echo "state machines"; .venv/bin/pytest -q tests/statemachines

check-openapi:
	@echo "openapi"; $(OPENAPI) --check

test: synth ## Run every test
	@.venv/bin/pytest

demo: synth ## Watch a spot interruption being survived on this machine (ONCE=1 ends after the summary)
	@$(DEMO) $(if $(ONCE),--once)

simulate: setup ## Run the failover protocol under every fault (SEEDS=20000), or replay one run (SEED=n, SHRINK=1)
	@$(PYTHON) -m simulation $(if $(SEED),--seed $(SEED) $(if $(SHRINK),--shrink),--seeds $(or $(SEEDS),20000))

simulate-mutants: setup ## Take the protocol's rules away one by one; each must be caught
	@$(PYTHON) -m simulation --mutants

bench-prices: setup ## Measure the price pipeline on recorded markets (SPOT_DATA_DIR=../shared/data, PURE=1 without the local AWS)
	@$(PYTHON) -m bench.prices $(if $(PURE),--pure)

bench-sync: setup ## Measure state transfer beside rsync; writes build/bench/sync.json (PAIRS=5)
	@$(PYTHON) -m bench.sync --pairs $(or $(PAIRS),5)

bench-decide: setup ## Measure decisions for 10,000 agents x 50 pools; writes build/bench/decide.json
	@$(PYTHON) -m bench.decide

train: setup ## Train the risk model on recorded interruptions and judge it; writes build/model (SPOT_DATA_DIR=../shared/data)
	@$(PYTHON) -m training

walkthrough: setup ## Write what README.md and docs/spotctl.md show of spotctl
	@WALKTHROUGH=write .venv/bin/pytest -q tests/cli/test_walkthrough.py -k page

bench-fence: setup ## Measure how soon a workload whose lease has ended is dead (BUSY=4)
	@$(PYTHON) -m bench.fence --busy $(or $(BUSY),0)

backtest: setup ## Replay recorded markets under rival policies; writes build/backtest.json and docs/backtest.png
	@$(PYTHON) -m backtest

failover-table: setup ## Write docs/failover.md's tables from the last run of every way to die
	@$(PYTHON) -m bench.failover

openapi: setup ## Write docs/openapi.json
	@$(OPENAPI)

clean: ## Remove all that was made
	@rm -rf build cdk.out .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
