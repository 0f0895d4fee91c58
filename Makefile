# Two commands for everyone: `make demo` and `make test`. Each does its own set-up on a fresh machine.
# The others are for those who work on Trunkline; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint unit coverage matrix explore fuzz bench docs clean help

demo: $(STAMP)  ## show the main job on real input, in under a minute
	$(BIN)/python examples/demo.py

test: $(STAMP)  ## set up and run everything that CI runs
	$(BIN)/python tools/check.py

lint: $(STAMP)  ## style, types and layers only
	$(BIN)/python tools/check.py --only lint

unit: $(STAMP)  ## the quick tests only
	$(BIN)/python tools/check.py --only unit

matrix: $(STAMP)  ## the quick tests on the other Pythons that are here
	$(BIN)/python tools/check.py --only matrix

coverage: $(STAMP)  ## all tests, and their branch coverage for a person to read
	$(BIN)/python tools/check.py --only coverage

explore: $(STAMP)  ## deep exploration of the small worlds; takes as long as it takes
	$(BIN)/trunkline simulate --deep

fuzz: $(STAMP)  ## long fuzzing by hand
	$(BIN)/python fuzz/run.py --seconds 600

bench: $(STAMP)  ## the benchmarks, side by side with the peers that are installed
	$(BIN)/python benchmarks/run.py

docs: $(STAMP)  ## redraw what is drawn from the tables
	$(BIN)/python tools/draw_states.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Trunkline needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:  ## remove the environment and what the tests left
	rm -rf $(VENV) $(VENV)-3.* .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* build dist

help:
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1 \t\2/p' Makefile
