# Everything works on a machine with Python 3.11, make and git: each target sets up what it needs.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2

.PHONY: help setup demo test test-systemd test-container test-elsewhere stress stateful chaos test-schedule bench-wrapper bench-schedule bench-delivery behaviour check format lint types lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## the virtual environment, from pinned and hashed versions

$(READY): requirements/dev.txt pyproject.toml bin/aura-run aura_agent/__init__.py
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip; ensurepip.version()' >/dev/null 2>&1 || { echo "make: $(PYTHON) can't make a virtual environment (no" \
		"ensurepip): install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY) ## everything at once on an embedded Aura (KEEP=1 leaves it running)
	@$(BIN)/aura-agent demo $(if $(KEEP),--keep)

test: $(READY) ## the tests: real processes, files and sockets
	tests/without-host-config.sh $(BIN)/python -m pytest -n $(JOBS) -m "not systemd and not container" $(ARGS)

test-elsewhere: $(READY) ## the same on a bare Debian 13 with its own Python, as an ordinary user (root; installs what it needs)
	tests/machines/test-elsewhere.sh trixie tester sh -c "make demo && { make test || make test ARGS=--last-failed; }"
	tests/machines/test-elsewhere.sh trixie root tests/machines/install-by-readme.sh

test-systemd: $(READY) ## the unit file in a booted systemd (root; installs what it needs)
	tests/systemd/setup.sh
	$(BIN)/python -m pytest -m systemd tests/systemd $(ARGS)

test-container: $(READY) ## the images and manifests in podman (root; installs what it needs)
	tests/deploy/setup.sh
	$(BIN)/python -m pytest -m container tests/deploy $(ARGS)

stress: $(READY) ## the stress run in full: 2,000 wrapped jobs, while everything is killed and taken down at random
	AURA_STRESS_RUNS=2000 $(BIN)/python -m pytest -s tests/e2e/test_storm.py $(ARGS)

stateful: $(READY) ## the outbox's rules against their oracle, at length: 3,000 random lives of a host
	AURA_STATEFUL_LIVES=3000 $(BIN)/python -m pytest -s tests/outbox/test_stateful.py $(ARGS)

chaos: $(READY) ## faults in full: 300 cycles of kill -9 of daemon, courier and wrappers under load, the network's, power cuts
	AURA_CHAOS_CYCLES=300 $(BIN)/python -m pytest -s tests/faults tests/e2e/test_outages.py $(ARGS)

test-schedule: $(READY) ## the long form of the schedule's tests: 20,000 random expressions, a simulated year
	TMPDIR=/dev/shm AURA_SCHEDULE_CASES=20000 AURA_SCHEDULE_DAYS=365 $(BIN)/python -m pytest -s --timeout 3600 \
		tests/schedule/test_differential.py tests/daemon/test_year.py $(ARGS)

bench-wrapper: $(READY) ## what aura-run adds to a job: time, memory, throughput
	$(BIN)/python -m bench.wrapper $(ARGS)

bench-delivery: $(READY) ## what outbox and courier do in a second, what waiting costs, how a herd comes back
	$(BIN)/python -m bench.delivery $(ARGS)

PEERS := .bench-peers

bench-schedule: $(READY) ## what the scheduler costs, beside cronstable, yacron and Debian's cron (ARGS="--quick")
	@test -x $(PEERS)/bin/yacron || { $(PYTHON) -m venv --clear $(PEERS) && \
		$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers.txt; }
	$(BIN)/python -m bench.schedule --peers $(PEERS)/bin $(ARGS)

behaviour: $(READY) ## write docs/wrapper-behaviour.md from the tests that prove it
	$(BIN)/python -m tests.wrapper.behaviour

format: $(READY) ## rewrite the sources as ruff formats them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

check: lint types test ## ruff, mypy --strict and the tests

LOCK := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url

lock: ## pin the newest allowed versions again, with hashes (needs uv)
	$(LOCK) --upgrade pyproject.toml requirements/dev.in -o requirements/dev.txt
	$(LOCK) pyproject.toml -c requirements/dev.txt -o requirements/runtime.txt
	$(LOCK) requirements/build.in -c requirements/dev.txt -o requirements/build.txt
	$(LOCK) tests/deploy/requirements.in -c requirements/dev.txt -o tests/deploy/requirements.txt

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) $(PEERS) .pytest_cache .mypy_cache .ruff_cache .hypothesis
