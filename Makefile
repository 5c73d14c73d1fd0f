# Every target makes its own environment, in .venv, the first time. Needs Python 3.11 or newer and pip's network.
#   make demo PYTHON=/path/to/python3.12     another interpreter

PYTHONS := python3 python python3.13 python3.12 python3.11 python3.14
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(PYTHONS); do $$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
TESTFLAGS ?= -n 2 --dist worksteal

VENV := .venv
BIN := $(VENV)/bin
# The two folders and every file in them, for targets that must notice a new one.
SOURCES = $(shell find ppl transforms -name '*.py')

.PHONY: help demo air gallery test slow optimised lowest all-tests lint types docs notebooks benchmarks dist format clean
.PRECIOUS: $(VENV)/.has-%

help:
	@echo 'make demo        train a variational autoencoder on real digits and draw docs/images/vae.png'
	@echo 'make air         attend, infer, repeat, by every estimator: half an hour. AIR="--quick", or "--methods mvd --epochs 10"'
	@echo 'make gallery     every system of docs/gallery in its small form. GALLERY="svae collapse", or "--whole"'
	@echo 'make test        the tests that are not marked slow; quicker the second time'
	@echo 'make slow        the tests that are'
	@echo 'make all-tests   both'
	@echo 'make optimised   a few exact tests compiled as for users; the others are compiled quickly'
	@echo 'make lowest      the same few with the oldest versions that pyproject.toml allows, in an environment of its own'
	@echo 'make lint        ruff: rules and format'
	@echo 'make types       mypy'
	@echo 'make docs        the documentation, in site/, warnings as errors, and a check of what was built'
	@echo 'make notebooks   run every notebook'
	@echo 'make benchmarks  one table of times, ours beside those by hand and of NumPyro. BENCHMARKS="--quick", or "--check"'
	@echo 'make dist        wheel and sdist in dist/, installed and imported in an empty environment'
	@echo 'make format      let ruff rewrite the files'
	@echo 'make clean       remove everything that these made'

demo: $(VENV)/.has-demo
	$(BIN)/python docs/examples/vae.py

# AIR: options of docs/examples/air.py. The results go to build/air.
air: $(VENV)/.has-demo
	$(BIN)/python docs/examples/air.py $(AIR)

# GALLERY: names of systems, and --whole for the whole forms, which leave their pictures in docs/images.
gallery: $(VENV)/.has-gallery
	MPLBACKEND=Agg $(BIN)/python docs/gallery $(GALLERY)

test: $(VENV)/.has-test
	$(BIN)/python -m pytest $(TESTFLAGS) -m 'not slow'

slow: $(VENV)/.has-test
	$(BIN)/python -m pytest $(TESTFLAGS) -m slow

# Exact tests of estimators in straight programs, loops, branches and plates.
EXACT := tests/test_exact_chains.py tests/test_new_construct.py tests/test_dead_choices.py tests/test_scales.py
optimised: $(VENV)/.has-test
	TRACEGRAD_TESTS=optimised $(BIN)/python -m pytest $(TESTFLAGS) -m 'not slow' $(EXACT)

lowest: $(VENV)-lowest/.has-test
	$(VENV)-lowest/bin/python -m pytest $(TESTFLAGS) -m 'not slow' $(EXACT)

# The lower bounds of pyproject.toml, each as a version.
$(VENV)-lowest/.has-test: pyproject.toml | $(VENV)/.python
	$(BIN)/python -m venv $(VENV)-lowest
	$(BIN)/python -c 'import tomllib; found = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]; 	print(*(each.replace(">=", "==") for each in found), sep="\n")' > $(VENV)-lowest/constraints.txt
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check 	--constraint $(VENV)-lowest/constraints.txt --editable . pytest pytest-xdist hypothesis chex
	@touch $@

all-tests: $(VENV)/.has-test
	$(BIN)/python -m pytest $(TESTFLAGS)

lint: $(VENV)/.has-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.has-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.has-dev build/tree
	$(BIN)/mypy

docs: $(VENV)/.has-docs build/tree
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python tests/site_checks.py site

notebooks: $(VENV)/.has-notebooks
	@printf '%s\n' notebooks/*.ipynb | xargs -t -n 1 -P 2 $(BIN)/jupyter execute

# Every row, ours beside the best by hand and NumPyro. BENCHMARKS: options, or names of rows.
benchmarks: $(VENV)/.has-test
	$(BIN)/python tests/benchmarks table $(BENCHMARKS)

# Built from a copy, because setuptools puts what it finds in an old build/lib into the next wheel.
dist: $(VENV)/.has-dev
	rm -rf dist build/dist
	mkdir -p build/dist/source
	cp -R pyproject.toml README.md LICENSE ppl transforms build/dist/source
	$(BIN)/python -m build --outdir dist build/dist/source
	empty=$$(mktemp -d) && trap 'rm -rf "$$empty"' EXIT && \
	$(BIN)/python -m venv "$$empty" && \
	"$$empty/bin/python" -m pip install --quiet dist/*.whl && \
	cd "$$empty" && bin/python -I -c \
	'import tracegrad, tracegrad.transforms as t; print(tracegrad.__version__, tracegrad.__file__, t.__file__)'

# The package as it is installed, made of links: for tools that read files and do not import.
.PHONY: build/tree
build/tree:
	@rm -rf $@ && mkdir -p $@/tracegrad
	@ln -s $(CURDIR)/ppl/* $(CURDIR)/transforms $@/tracegrad

clean:
	rm -rf build dist site *.egg-info .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find ppl transforms tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo 'Kept: $(VENV). Remove it by hand to start afresh.'

$(VENV)/.python:
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		if ! $(or $(PYTHON),false) -c '$(NEW_ENOUGH)' 2>/dev/null; then \
			echo 'tracegrad needs Python 3.11 or newer, which this is not: $(or $(PYTHON),$(PYTHONS)).'; \
			echo 'Name one: make PYTHON=/path/to/python3.12 ...'; exit 1; \
		fi; \
		$(PYTHON) -m venv $(VENV); \
	fi
	@$(BIN)/python -c '$(NEW_ENOUGH)' || { echo '$(VENV) holds a Python older than 3.11: remove it.'; exit 1; }
	@touch $@

# One extra of pyproject.toml, installed together with the package itself, once.
$(VENV)/.has-%: pyproject.toml | $(VENV)/.python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
