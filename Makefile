PYTHON ?= python3
STACK ?= auto
BIN := .venv/bin
# One more worker than there are cores: many tests wait for something to time out.
WORKERS ?= $(shell $(PYTHON) -c "import os; print((os.cpu_count() or 1) + 1)")
# Where it is set, each of the tests' hundreds of processes compiles everything again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help setup demo quick test check format reference lock model records clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 18
	@echo '  STACK=cpu|gpu|transformers picks the stack; left out, the machine decides.'

setup: ## makes .venv ready, once (2 to 5 minutes and 3 GB on a CPU machine)
	@$(PYTHON) scripts/setup.py --stack $(STACK)

# 3 is "done, but some records wait": without an API key that is how the demo ends.
demo: setup ## runs the demo job: a local model answers, and what it is unsure of waits
	@$(BIN)/surelocal run configs/demo/job.yaml --run-dir runs/demo-$$(date -u +%Y%m%dT%H%M%SZ) \
	  || { status=$$?; [ $$status -eq 3 ] || exit $$status; }

quick: setup ## the tests that load no model and start nothing
	$(BIN)/python -m pytest -q -n auto --dist worksteal --quick

test: setup check ## checks, then runs every test
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=10

check: setup ## format, lint, types and import layers; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup ## formats, and fixes what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

reference: setup ## writes docs/reference from the code
	@$(BIN)/python scripts/make_reference.py

lock: setup ## renews both requirement lists from pyproject.toml
	$(BIN)/python scripts/lock.py cpu
	$(BIN)/python scripts/lock.py gpu

model: setup ## trains the demo model again, from scratch
	$(BIN)/python scripts/train_demo_model

records: setup ## makes the demo's records again
	$(BIN)/python scripts/make_demo_records.py

clean: ## removes caches and build leftovers; .venv and runs/ stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find runner escalation scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
