# The README's two commands are `make demo` and `make test`; each sets up what it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin
KILLS := launch tui  # tests that kill processes and count seconds go beside each other, not beside trainings

.PHONY: demo test test-all soak check format docs clean

demo: .venv/core
	$(BIN)/simclr-plus demo

test: check
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not soak"

test-all: .venv/dev
	$(BIN)/pytest -m slow -n 2 tests/training tests/parts
	$(BIN)/pytest -m slow -n 2 --dist loadfile $(addprefix --ignore=tests/,training parts $(KILLS))
	$(BIN)/pytest -m slow -n 2 --dist loadfile $(addprefix tests/,$(KILLS))

soak: .venv/dev
	$(BIN)/pytest -m soak

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean:
	rm -rf .venv build *.egg-info

.venv/core: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "SimCLR+ needs Python 3.11 or newer; say which: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "setting up .venv: downloads PyTorch once, takes some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/dev: .venv/core
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

.venv/docs: .venv/core
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@
