# make demo: prune a classifier of handwritten digits.  make test: the tests, but for the slowest.  make test-slow: those.
# make lint: style and types.  make docs: the documentation site, into docs/_build/html.
# Each makes .venv first where it is not there yet; only Python 3.11 or later is needed.

PYTHON ?= $(firstword $(shell command -v python3.11) $(shell command -v python3) python3)
READY := .venv/.ready

.PHONY: demo test test-slow lint docs clean

demo: $(READY)
	.venv/bin/hybrid-icbs demo

test: $(READY)
	.venv/bin/pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(READY)
	.venv/bin/pytest -n 2 --dist worksteal -m slow

lint: $(READY)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# Warnings are errors. The examples of the gallery are run; the doctest builder runs the console blocks of the pages.
docs: $(READY)
	.venv/bin/sphinx-build -q -W --keep-going -d docs/_build/doctrees docs docs/_build/html
	.venv/bin/sphinx-build -q -W --keep-going -d docs/_build/doctrees -b doctest docs docs/_build/doctest
	@echo "The documentation is in docs/_build/html/index.html"

# Made again when the list of dependencies or their pinned versions change.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or later is needed, and $(PYTHON) is not one. Install it, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "No virtual environment could be made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing into .venv; this takes a minute or two."
	.venv/bin/python -m pip install --quiet --no-compile -c constraints.txt -e ".[dev]"
	@# On all processors, which pip does on one; a few files of the dependencies are templates, and are no Python.
	@.venv/bin/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true
	@touch $@

clean:
	rm -rf .venv build dist docs/_build docs/gallery docs/sg_execution_times.rst .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
