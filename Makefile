# `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
FORCE  ?=
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup smoke demo test table1 table2 table3 status verify chaos reproduce claims figure2 bench docs report demo-report toy clean clean-outputs

help:  ## list the targets
	@grep -hE '^[a-z0-9_-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 15

setup: $(VENV)/installed  ## create .venv and install everything (which build of torch: see README)

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version); set PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[lab,dev]'
	@touch $@

smoke: setup  ## LoDA+ on the toy: trained, decoded, scored, one row printed; half a minute of one core
	$(BIN)/python train.py model=toy dataset=toy optim=toy trainer=toy seed=0

demo: setup  ## the main job on the embedded toy model and data: train, decode, score, Table 1
	$(BIN)/python -m scripts table table1 --profile toy --processes 2

test: setup  ## lint, types, documentation and the whole test suite, about 20 minutes on two cores; PART=tests/library: this part alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PART)

table1: setup  ## Table 1 (E2E) in the paper's settings; needs a GPU, FORCE=1 runs it without
table2: setup  ## Table 2 (DART), likewise
table3: setup  ## Table 3 (bottleneck dimensions r), likewise
table1 table2 table3:
	$(BIN)/python -m scripts table $@ --profile paper $(if $(FORCE),--force) $(ARGS)

status: setup  ## list the runs in outputs/: done, running, failed, stopped; TABLE=table1 PROFILE=toy: what a table lacks
	$(BIN)/python -m scripts status $(if $(TABLE),$(TABLE) $(if $(PROFILE),--profile $(PROFILE)) $(ARGS))

verify: setup  ## check every stage in outputs/ against its manifest
	$(BIN)/python -m scripts verify $(or $(OUTPUTS),outputs)

chaos: setup  ## kill the toy pipeline at KILLS random moments (default 60), fail every operation, alter every file
	$(BIN)/python -m tests.chaos --kills $(or $(KILLS),60)
	$(BIN)/python -m tests.chaos.faults
	$(BIN)/python -m tests.chaos.alterations
	$(BIN)/python -m tests.chaos.launches

reproduce: setup  ## run the finished RUN again from its record and compare adapters, predictions and scores
	$(BIN)/python -m scripts reproduce $(RUN)

claims: setup  ## check every claim of the paper that needs no training; writes docs/claims.md
	$(BIN)/python -m scripts claims $(ARGS)

figure2: setup  ## Figure 2: energy kept by low-rank and sparse approximations of GPT2-medium's first block
	$(BIN)/python -m scripts figure2 --model gpt2_medium $(ARGS)

bench: setup  ## time every stage against public libraries, at most 18 minutes on two cores
	$(BIN)/python -m benchmarks $(ARGS)

docs: setup  ## serve the documentation on http://127.0.0.1:8000
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

report: setup  ## everything in outputs/ as one HTML file, outputs/report.html; nothing is trained
	$(BIN)/python -m scripts report $(ARGS)

demo-report: setup  ## Tables 1 to 3 and Figure 2 on the toy model and data, then their report
	$(BIN)/python -m scripts figure2 --model toy
	status=0; \
	for table in table1 table2 table3; do \
	  $(BIN)/python -m scripts table $$table --profile toy --processes 2 || status=$$?; \
	done; \
	$(BIN)/python -m scripts report --profile toy && exit $$status

toy: setup  ## rebuild the toy base and data from nothing (20-30 minutes on two cores)
	$(BIN)/python -m scripts.toy

clean:  ## remove the environment and caches; runs stay
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

clean-outputs:  ## remove everything in outputs/, trained adapters and scores included
	find outputs -mindepth 1 ! -path outputs/README.md -delete
