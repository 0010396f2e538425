# `make` alone lists what there is to do.

PY := .venv/bin/python
MINUTES := 10
# Any of these will do; PYTHON=… names another.
PYTHONS := python3 python3.13 python3.12 python3.11 python3.14
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help setup run live lab test test-quick notebooks lint bench oracle reproduce experiments soak cluster-test lock clean
.PHONY: test-servers test-others

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: .venv/.complete ## Set up what is missing: the packages, a Java, the jars (the other targets do it by themselves)

# An environment whose Python is gone is made again.
.venv/.complete: bootstrap.py pyproject.toml requirements.lock $(wildcard jars/*/jgo.lock.toml) \
    $(shell $(PY) -c '' 2>/dev/null || echo no-python)
	@for python in $(or $(PYTHON),$(PYTHONS)); do \
	    if [ -n "$(PYTHON)" ] || "$$python" -c '$(NEW_ENOUGH)' 2>/dev/null; then \
	        "$$python" bootstrap.py && touch $@; exit; \
	    fi; \
	done; \
	echo "Python must be 3.11 or newer. Got none on PATH. Install one, or name it: make PYTHON=/path/to/python3.12 run" >&2; \
	exit 1

.PHONY: no-python
no-python: ; @rm -f .venv/.packages

# The variables of make's command line but its own ones are parameters of the notebooks.
SETTINGS = $(foreach name,$(filter-out PY PYTHON PYTHONS MINUTES,$(.VARIABLES)),$(if $(filter command,$(origin $(name))),"$(name)=$$$(name)"))

run: setup ## Run the four notebooks on a real day, write the reports: make run PERCENT=5 FROM=03 PARAMS=my.yaml
	@$(PY) -m lib.pipeline $(SETTINGS)

live: setup ## Run the same four against the live stream: make live MINUTES=10
	@$(PY) -m lib.pipeline --live --minutes $(MINUTES) $(SETTINGS)

lab: setup ## Open JupyterLab on the whole project
	@$(PY) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root)

test: setup lint ## Run everything that CI runs: lint, types, doctests, tests, the notebooks
	@$(MAKE) --no-print-directory -j 2 --output-sync=target test-servers test-others

# The two halves of it, side by side: the notebooks with stage 4, and the rest.
test-servers:
	@$(PY) -m pytest --nbval notebooks tests/online

test-others:
	@$(PY) -m pytest tests lib --ignore=tests/online

test-quick: setup ## Run the tests that take less than five seconds each
	@$(PY) -m pytest -m "not slow and not cluster and not soak"

soak: setup ## Kill stage 4 ten times at random moments (the seed is printed) and see whether anything is lost or doubled
	@$(PY) -m pytest -s -m soak tests/online/test_kill.py

cluster-test: setup ## Run the tests that need a whole cluster: a Spark master, two workers, three brokers
	@$(PY) -m pytest -m cluster

notebooks: setup ## Execute the notebooks where they are and keep their outputs (after a change of code or data)
	@for notebook in notebooks/0*.ipynb; do \
	    $(PY) -m jupyter nbconvert --execute --inplace --ExecutePreprocessor.record_timing=False $$notebook || exit; \
	done
	@$(PY) -m tests.readme

lint: setup ## Check style (notebooks too) and types
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy

bench: setup ## Run the benchmarks and print a table
	@$(PY) -m benchmarks

oracle: setup ## Compare all that the stages decide with the stored hashes (WRITE=1 stores them after a change that is meant)
	@$(PY) -m tests.oracle $(if $(WRITE),--write)

reproduce: run ## Execute notebooks 03 and 04 as other processors, threads, locales and Pythons would, and print a table
	@$(PY) -m tests.reproduce

experiments: setup ## Try other models and print a table: make experiments CAPTURES="a.jsonl.gz folder-of-csv"
	@$(PY) -m experiments $(CAPTURES)

# One version of a package for all Pythons: numpy 2.5 draws other numbers than 2.4, and figures would differ.
lock: setup ## Renew requirements.lock and the jars' locks from what pyproject.toml and jgo.toml ask for
	$(PY) -m uv pip compile -q --universal --fork-strategy fewest --generate-hashes --python-version 3.11 --group dev \
	    --custom-compile-command "make lock" -o requirements.lock pyproject.toml
	for folder in jars/*/; do (cd "$$folder" && ../../$(PY) -m jgo --resolver python --class-path-only lock) || exit; done

clean: ## Delete what the stages made (data/), logs and caches; the set-up stays
	find data -mindepth 1 -maxdepth 1 ! -name README.md ! -name .gitkeep -exec rm -rf {} +
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis spark-warehouse metastore_db derby.log artifacts
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
