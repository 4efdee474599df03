# The interpreter that makes .venv, and more arguments for pytest:
#   make test PYTHON=python3.12 ARGS="-m 'not slow'"
PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
# Written only after a complete install, so that an interrupted one is done again.
STAMP := .venv/.installed

.PHONY: help install demo test lint format clean

help:  ## say what can be made
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/  make \1@\2/p' Makefile | tr @ '\t' | expand -t 18

install: $(STAMP)  ## the package and its tools, in .venv

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into .venv; the first time takes a minute or more ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check \
		-c constraints.txt -e ".[dev,examples]"
	@touch $@

demo: $(STAMP)  ## fit real film ratings and look at the predictions
	$(BIN)/python examples/movies.py

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy pyro_pmf

format: $(STAMP)  ## put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove all that make made, .venv too
	rm -rf .venv build dist out .mypy_cache .pytest_cache .ruff_cache .hypothesis
