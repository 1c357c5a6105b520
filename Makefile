# Everything is done in .venv, which is made at the first call: by uv where it is there, else by pip.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.PHONY: demo test up bench screenshots lint lock clean

demo: $(READY)  ## start the stack, send real events, show what became of them, stop everything
	$(VENV)/bin/python -m demo

test: $(READY)  ## all tests
	$(VENV)/bin/python -m pytest

up: $(READY)  ## run the stack at http://localhost:8290 until Ctrl-C
	$(VENV)/bin/runyard up

bench: $(READY)  ## all benchmarks: a table, and a JSON file in benchmarks/results
	$(VENV)/bin/python -m benchmarks.run

screenshots: $(READY)  ## take the pictures of the dev page anew (needs Chromium)
	$(VENV)/bin/python -m tests.screenshots

lint: $(READY)  ## format, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

lock: $(READY)  ## write requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile --universal --python-version 3.11 --extra dev --no-header --no-annotate pyproject.toml -o requirements.lock

clean:  ## remove the virtual environment and all data, the database too
	@if [ -x $(VENV)/bin/runyard ]; then $(VENV)/bin/runyard down; $(VENV)/bin/runyard delete-database; fi
	rm -rf $(VENV) .runyard .logs_queue logs storage history *.egg-info

$(READY): requirements.lock pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV) && \
		uv pip install --quiet --python $(VENV)/bin/python -r requirements.lock && \
		uv pip install --quiet --python $(VENV)/bin/python --no-deps -e . ; \
	else \
		"$(PYTHON)" -m venv $(VENV) && \
		$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.lock && \
		$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -e . ; \
	fi
	@touch $(READY)
