# make demo: prune a classifier of handwritten digits.  make test: the tests, but for the slowest.  make test-slow: those.
# make lint: style and types.  make docs: the documentation site, into docs/_build/html.  make wheel: build and try a wheel.
# Each installs into .venv what it needs; only Python 3.11 or later is needed.

PYTHON ?= $(firstword $(shell command -v python3.11) $(shell command -v python3) python3)
PACKAGE := .venv/.package
DEV := .venv/.dev
DOCS := .venv/.docs
INSTALL := .venv/bin/python -m pip install --quiet --no-compile -c constraints.txt

.PHONY: demo test test-slow lint docs wheel clean

demo: $(PACKAGE)
	.venv/bin/hybrid-icbs demo

test: $(DEV)
	.venv/bin/pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(DEV)
	.venv/bin/pytest -n 2 --dist worksteal -m slow

lint: $(DEV)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# Warnings are errors. The examples of the gallery are run; the doctest builder runs the console blocks of the pages.
docs: $(DOCS)
	.venv/bin/sphinx-build -q -W --keep-going -d docs/_build/doctrees docs docs/_build/html
	.venv/bin/sphinx-build -q -W --keep-going -d docs/_build/doctrees -b doctest docs docs/_build/doctest
	@echo "The documentation is in docs/_build/html/index.html"

# The wheel is installed into an environment of its own, outside the checkout, and runs the demo and the solver checks.
wheel: $(PACKAGE)
	rm -rf dist
	.venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@at=$$(mktemp -d) && trap 'rm -rf "$$at"' EXIT && here=$$(pwd) && $(PYTHON) -m venv "$$at/env" && \
		"$$at/env/bin/python" -m pip install --quiet -c constraints.txt dist/*.whl && cd "$$at" && \
		env/bin/hybrid-icbs demo --out run && env/bin/python "$$here/.ci/conformance.py"

# What the package needs, and no more: the demo is for newcomers. The stamps follow the lists of dependencies.
$(PACKAGE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or later is needed, and $(PYTHON) is not one. Install it, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "No virtual environment could be made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing the package into .venv; this takes a minute or two."
	$(INSTALL) -e .
	@# In parallel, which pip does not do; a few files of the dependencies are templates that do not compile.
	@.venv/bin/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true
	@touch $@

$(DEV): $(PACKAGE)
	@echo "Installing the test tools and the extras into .venv."
	$(INSTALL) -e ".[dev]"
	@touch $@

$(DOCS): $(PACKAGE)
	@echo "Installing the documentation tools into .venv."
	$(INSTALL) -e ".[docs]"
	@touch $@

clean:
	rm -rf .venv build dist docs/_build docs/gallery .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
