# `make` lists the targets. Each one sets up all it needs in .venv first; this is a no-op when nothing has changed.
# With STACK=oldest (a file of scripts/stacks), PYTHON=3.12, or both, it is an environment of its own: `make test STACK=oldest`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test unit lint soak soak-versions pack wheel clean

# What is asked for on the command line: in the environment these names mean other things.
ifneq ($(origin STACK),command line)
override STACK :=
endif
ifneq ($(origin PYTHON),command line)
override PYTHON :=
endif
VENV := .venv$(if $(STACK),-$(STACK))$(if $(PYTHON),-python$(PYTHON))
python := $(VENV)/bin/python

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Make .venv hold what pyproject.toml asks for
	@VENV=$(VENV) STACK=$(STACK) PYTHON=$(PYTHON) scripts/setup.sh

demo: setup  ## Prepare, train and score handwritten digits on this machine
	@SPARK_CONF_DIR=conf $(python) jobs/examples/digits.py

# Three files of tests at a time: a third of the time of one is waiting for processes. The archive is made beside lint.
test: setup  ## Lint, types, and all tests that need one machine
	@$(python) tests/jvm.py & $(if $(STACK)$(PYTHON),,$(MAKE) --no-print-directory lint &&) wait $$! && \
	$(python) -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

unit: setup  ## The tests without Spark and TensorFlow
	@$(python) -m pytest tests/unit

lint: setup  ## Lint, types, the directions of imports, and the words of the prose
	@$(python) -m ruff check
	@$(VENV)/bin/lint-imports --no-cache
	@$(python) scripts/check_words.py
	@$(python) -m mypy sparkdl

soak: setup  ## Long and repeated trials: kills, faults, memory, large models (about 90 minutes)
	@$(python) -m pytest tests/soak -s
	@$(python) -m pytest -m soak
	@EXAMPLES=all $(python) -m pytest tests/unit -m hypothesis

soak-versions:  ## The tests on the oldest and newest packages that sparkdl takes, and between (about two hours)
	@scripts/versions.sh

pack: setup  ## An archive of interpreter, TensorFlow, Horovod and sparkdl for clusters (docs/clusters.md)
	@VENV=$(VENV) scripts/pack.sh

wheel: setup  ## Wheels of sparkdl-tf and of Horovod, for this Python and TensorFlow, into dist/ (docs/install.md)
	@VENV=$(VENV) scripts/wheels.sh

clean:  ## Remove .venv, caches and what Spark left here
	rm -rf .venv .venv-* uv.lock build dist spark-warehouse metastore_db derby.log *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find sparkdl jobs tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
