# `make demo` and `make test` are the two to know. Each can be repeated: what is there is kept.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; \
	done)
VENV ?= .venv
JOBS ?= 2
CASES ?= 50000
KIND ?= graphs
BIN := $(VENV)/bin

.PHONY: help demo test check format bench fuzz opinfo clean

help:
	@echo "make demo    trains on handwritten digits and on Python's own source, shows the ladder"
	@echo "make test    ruff, mypy and the test suite (JOBS=$(JOBS) processes)"
	@echo "make check   ruff and mypy alone"
	@echo "make format  lays the code out"
	@echo "make bench   every benchmark against torch and JAX; tables, and JSON in out/bench/"
	@echo "make fuzz    CASES=$(CASES) generated cases of KIND=$(KIND); python -m tests.fuzz -h lists the kinds"
	@echo "make opinfo  every operator of torch on torch's own samples; writes docs/opinfo.md"
	@echo "make clean   removes the environment and what the commands wrote"

demo: $(VENV)/.with-demo
	$(BIN)/rung demo

test: check
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

check: $(VENV)/.with-test
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.with-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.with-bench
	$(BIN)/python -m benchmarks --json out/bench $(ARGS)

fuzz: $(VENV)/.with-test
	$(BIN)/python -m tests.fuzz $(KIND) --cases $(CASES) --jobs $(JOBS) $(ARGS)

opinfo: $(VENV)/.with-test
	$(BIN)/python -m tests.oracle --jobs $(JOBS) --markdown docs/opinfo.md $(ARGS)

clean:
	rm -rf $(VENV) build dist out *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or later: make PYTHON=/path/to/python3 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras; a change of pyproject.toml installs again.
$(VENV)/.with-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@
