# make demo   the paper's six rows on the embedded data set, with a report (10 to 20 minutes on 2 cores, after the install)
# make test   linters, and the tests that take less than ten minutes on 2 cores
# make check  linters and all tests, as CI runs them (10 to 25 minutes)
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# uv, where it is there, installs these several times as fast as pip. It compiles them as pip does: where Python may not write
# bytecode (PYTHONDONTWRITEBYTECODE, as in many containers), each command would compile all of torch anew.
PACKAGES := --constraint requirements.lock --editable '.[dev]'

.PHONY: demo test check lint clean

demo: $(INSTALLED)
	$(BIN)/bench run demo
	$(BIN)/bench report demo

# The tests start hundreds of processes. Each would compile the project anew where Python may not write bytecode.
test check: export PYTHONDONTWRITEBYTECODE =

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

check: lint  # three workers on two cores: the long tests mostly wait
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

$(INSTALLED): pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	{ command -v uv >/dev/null && uv pip install --quiet --compile-bytecode --python $(BIN)/python $(PACKAGES); } \
		|| $(BIN)/pip install --quiet --disable-pip-version-check $(PACKAGES)
	touch $@

clean:
	rm -rf .venv bench-runs build *.egg-info .pytest_cache .ruff_cache .mypy_cache
