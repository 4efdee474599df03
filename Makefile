# The interpreter that makes .venv, and more arguments for pytest:
#   make test PYTHON=python3.12 ARGS="-m 'not slow'"
# and for the benchmarks:
#   make bench BENCH_ARGS="--data movielens-100k --seeds 0"
# and the number of inputs of make fuzz:
#   make fuzz N=1000
PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
VENV ?= .venv
ARGS ?=
BENCH_ARGS ?=
N ?= 10000

BIN := $(VENV)/bin
# Written only after a complete install, so that an interrupted one is done again.
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.bench-installed

.PHONY: help install demo test test-fast test-slow coverage fuzz test-matrix bench lint format clean

help:  ## say what can be made
	@sed -n 's/^\([a-z-]*\): .*## \(.*\)/  make \1@\2/p' Makefile | tr @ '\t' | expand -t 20

install: $(STAMP)  ## the package and its tools, in .venv

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV); the first time takes a minute or more ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check \
		-c constraints.txt -e ".[dev,examples]"
	@touch $@

demo: $(STAMP)  ## fit real film ratings and look at the predictions
	$(BIN)/python examples/movies.py

# Each worker has one thread, for most tests are so small that threads only wait for each other.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest
WORKERS := --numprocesses=auto --dist=worksteal

test: $(STAMP)  ## run the tests, all but the long statistical ones
	$(PYTEST) $(WORKERS) -m "not long" $(ARGS)

test-fast: $(STAMP)  ## run the tests of a second or less: the loop one works in
	$(PYTEST) $(WORKERS) -m "not slow and not long" $(ARGS)

test-slow: $(STAMP)  ## run the long statistical tests: by hand, before a release
	$(PYTEST) $(WORKERS) -m long $(ARGS)

coverage: $(STAMP)  ## run the tests and measure which lines they run: at least 95%
	$(PYTEST) $(WORKERS) -m "not long" --cov=pyro_pmf --cov-fail-under=95 $(ARGS)

fuzz: $(STAMP)  ## try N generated tables, files, questions and altered folders: minutes
	@OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz $(N)

# By hand, before a release: each interpreter gets an environment of its own, such as .venv-3.12.
test-matrix:  ## run the tests on each of PYTHONS that is here, 3.11 to 3.13
	@ran=; for python in $(PYTHONS); do \
		if ! $$python --version >/dev/null 2>&1; then \
			echo "$$python is not here: skipped"; continue; \
		fi; \
		echo "$$python"; \
		$(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$${python#python} || exit 1; \
		ran="$$ran $$python"; \
	done; \
	test -n "$$ran" && echo "The tests passed on$$ran" || { echo "None of $(PYTHONS) is here"; exit 1; }

bench: $(BENCH_STAMP)  ## compare with other packages, then time the steps: 45 minutes
	$(BIN)/python -m benchmarks $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.steps

# Of recbole only its copy of MovieLens-100K is read, so its many dependencies stay away.
$(BENCH_STAMP): $(STAMP)
	@echo "Installing other packages into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check \
		-c constraints.txt -e ".[bench]"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check \
		-c constraints.txt --no-deps recbole
	@touch $@

lint: $(STAMP)  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy pyro_pmf

format: $(STAMP)  ## put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove all that make made, .venv too
	rm -rf .venv .venv-* build dist out .mypy_cache .pytest_cache .ruff_cache .hypothesis
