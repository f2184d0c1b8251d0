# The commands of a fresh machine. `make demo` and `make test` install what they need into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install swift demo test check docs clean

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
	$(BIN)/mypy --strict xmodal
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

# The documentation as a site in build/site; every link of the pages and of the README is followed.
docs: install
	$(BIN)/python .ci/check_links.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet -f .ci/mkdocs.yml

clean:
	rm -rf .venv .venv-swift build *.egg-info
