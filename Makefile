# The commands of a fresh machine. `make demo` and `make test` install what they need into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install swift demo test check clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The S3 server of the tests, in an environment of its own; without it those tests are skipped.
swift:
	$(PYTHON) tests/support/object_store.py install

demo: install
	$(BIN)/python -m jobs.demo

# Three at a time, since tests on Ray wait now and then; in their order, so that the long ones on Ray begin first and small ones fill the end.
# Python may keep what it compiles, also where the environment says otherwise: else every process compiles it again.
test: install
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv .venv-swift build *.egg-info
