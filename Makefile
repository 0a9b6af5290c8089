# Hardway: two commands do all set-up: `make up` (the cluster) and `make test` (everything CI checks).
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SYSTEM := $(VENV)/.system-packages
TESTS  := $(VENV)/.test-packages
READY  := $(VENV)/.ready

PACKAGES := apimachinery apiserver cloudcontroller clusterdns componentbase controllers deploy etcdlite kubeclient kubelet kubeproxy metricsserver pki scheduler

.PHONY: help up down status smoke labs chaos test unit e2e simulate robustness verify fix bench clean generate

help: ## Show the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(READY) $(SYSTEM) ## Raise the cluster: 3 controllers, 3 workers, DNS
	@$(BIN)/hardway up

down: $(READY) ## Stop the cluster and leave the machine as it was; state stays
	@$(BIN)/hardway down

status: $(READY) ## Show members, apiservers, nodes and pods
	@$(BIN)/hardway status

smoke: $(READY) ## The classic checklist, from outside, on the running cluster
	@$(BIN)/hardway smoke

chaos: $(READY) ## Kill members and daemons under load; prove that nothing acknowledged is lost
	@$(BIN)/hardway chaos

labs: $(TESTS) ## Type every command of every lab on a fresh lab, compare what it prints
	@$(BIN)/hardway --state .state/labs clean > /dev/null
	@$(BIN)/hardway --state .state/labs lab run; code=$$?; $(BIN)/hardway --state .state/labs clean > /dev/null; exit $$code

test: verify unit e2e ## Everything CI checks: static checks, unit tests, end-to-end tests

unit: $(TESTS) ## Tests that need no cluster
	@$(BIN)/pytest -q -n 2 -m "not e2e and not serial" tests
	@$(BIN)/pytest -q -m "serial and not e2e" tests

e2e: $(TESTS) ## Raise a cluster of its own, drive real clients against it, tear it down
	@$(BIN)/pytest -q -m e2e tests/e2e
	@$(BIN)/pytest -q -m e2e tests/labs

simulate: $(READY) ## 10,000 seeds of the consensus simulation
	@$(BIN)/python -m tests.etcdlite.simulation --seeds 10000

robustness: $(TESTS) ## Faults at the wire of the store, judged: 30 minutes on etcdlite, 6 on the real etcd
	@$(BIN)/python -m tests.robustness --minutes 36

verify: $(READY) ## Formatting, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: $(READY) ## Apply formatting and the linter's safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(TESTS) ## Measure beside the real thing; prints ratios
	@$(BIN)/python -m bench

clean: ## Stop the cluster and remove its state and everything generated
	@if [ -x $(BIN)/hardway ]; then $(BIN)/hardway clean; fi
	@rm -rf $(VENV) .state build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name '*_pb2*' -not -path './.venv/*' -delete
	@rm -f apimachinery/schema/table.json

generate: $(READY) ## Make the generated code again (protobuf, API schema)
	@$(BIN)/python hatch_build.py

$(READY): pyproject.toml requirements.lock hatch_build.py $(shell find proto -name '*.proto') $(wildcard apimachinery/schema/*.py apimachinery/schema/numbers/*.txt)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/python hatch_build.py > /dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(SYSTEM): $(READY) deploy/packages.py
	@$(BIN)/hardway install-packages
	@touch $@

$(TESTS): $(READY) deploy/packages.py
	@$(BIN)/hardway install-packages --tests
	@touch $@
