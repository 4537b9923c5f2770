PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test

demo: .venv/ready  ## the embedded line, twice from one snapshot: without and with Flinch
	$(BIN)/python -m runtime --demo

test: .venv/ready  ## lint, format, types, tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Flinch needs Python 3.11 or later; run make PYTHON=python3.11.")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
