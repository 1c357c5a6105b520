# Everything runs in .venv, created on first use with uv where it is installed, else with pip.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
comma := ,

.NOTPARALLEL:
.PHONY: demo demo-inngest up test test-slow test-all contract lint bench screenshots lock clean

demo: $(READY)  ## start the stack, send events through every entry point, print the outcomes, stop
	$(VENV)/bin/python -m demo

demo-inngest: $(READY_DEV)  ## run the application in examples/inngest on a stack of its own, stop
	$(VENV)/bin/python -m demo.inngest

up: $(READY)  ## run the stack at http://localhost:8290 until Ctrl-C
	$(VENV)/bin/runyard up

test: $(READY_DEV)  ## the quick tests, for every change
	$(VENV)/bin/python -m pytest -m "not slow"

test-slow: $(READY_DEV)  ## the tests that need a browser, other servers or the whole stack
	$(VENV)/bin/python -m pytest -m slow

test-all: test test-slow  ## all tests

contract:  ## the contract tests on the oldest and the newest supported Dagster
	"$(PYTHON)" -m tests.contract

lint: $(READY_DEV)  ## check format, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: $(READY_DEV)  ## all benchmarks but `peers` and `scaling`: a table, and benchmarks/results/*.json
	$(VENV)/bin/python -m benchmarks.run

screenshots: $(READY_DEV)  ## retake the pictures of the dev page (needs Chromium)
	$(VENV)/bin/python -m tests.screenshots

lock:  ## pin all dependencies in requirements.lock (needs uv)
	uv pip compile --universal --python-version 3.11 --all-extras --no-header --no-annotate \
		pyproject.toml -o requirements.lock

clean:  ## remove the virtual environment and all data, including the embedded database
	@if [ -x $(VENV)/bin/runyard ]; then \
		$(VENV)/bin/runyard down; $(VENV)/bin/runyard delete-database; \
	fi
	rm -rf $(VENV) .runyard .contract .logs_queue logs storage history build dist *.egg-info

# $(call install,EXTRAS): install this folder in editable mode, at the versions of the lock.
define install
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV) && \
		uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python \
			--constraint requirements.lock --editable ".[$(1)]"; \
	else \
		"$(PYTHON)" -m venv $(VENV) && \
		$(VENV)/bin/pip install --quiet --disable-pip-version-check \
			--constraint requirements.lock --editable ".[$(1)]"; \
	fi
endef

$(READY): requirements.lock pyproject.toml
	$(call install,project)
	@touch $@

$(READY_DEV): requirements.lock pyproject.toml
	$(call install,project$(comma)dev)
	@touch $(READY) $@
