# `make` lists the targets. Each one sets up all it needs in .venv first; this is a no-op when nothing has changed.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test unit lint soak pack clean

PYTHON := .venv/bin/python

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Make .venv hold what pyproject.toml asks for
	@scripts/setup.sh

demo: setup  ## Prepare, train and score handwritten digits on this machine
	@SPARK_CONF_DIR=conf $(PYTHON) jobs/examples/digits.py

# Tests mostly wait for processes that start: two at a time, those of a file one after the other.
test: lint  ## Lint, types, and all tests that need one machine
	@$(PYTHON) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

unit: setup  ## The tests without Spark and TensorFlow
	@$(PYTHON) -m pytest tests/unit

lint: setup  ## Lint and types
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m mypy sparkdl

soak: setup  ## Long and repeated trials: kills, faults, memory, large models (about 90 minutes)
	@$(PYTHON) -m pytest tests/soak -s
	@$(PYTHON) -m pytest -m soak

pack: setup  ## An archive of interpreter, TensorFlow, Horovod and sparkdl for clusters (docs/clusters.md)
	@scripts/pack.sh

clean:  ## Remove .venv, caches and what Spark left here
	rm -rf .venv uv.lock build dist spark-warehouse metastore_db derby.log *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find sparkdl jobs tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
