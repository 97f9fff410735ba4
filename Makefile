# make repro   the built-in demo, end to end: data, base, training, evidence, registry, report
# make test    the default tests: fast, offline, on a CPU
# make lint    ruff, ruff format and mypy, as pre-commit and CI run them
# make e2e     whole runs on real input, minutes long
# make nightly long, exhaustive or random tests
#
# PYTHON=python3.12 make …   builds .venv with another interpreter.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.PHONY: env repro test lint e2e nightly

PYTHON ?= python3
VENV ?= .venv
INSTALLED := $(VENV)/.installed-with-$(notdir $(PYTHON))

# The stages are `python -m tasks.<stage>`: the environment's python must be the first one found.
export PATH := $(abspath $(VENV))/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

env: $(INSTALLED) # the environment alone

repro: $(INSTALLED)
	@# DVC talks on stdout, of which one line a stage is worth reading; stages and errors talk on stderr.
	@python -P flows/dvc_project/run_cache.py repro | sed -nuE "s/^(Running stage '[^']*'|Stage '[^']*' is cached|Data and pipelines are up to date).*/\1/p"
	python -m tasks.telemetry.summary

# two workers on two cores: a second thread each would only wait
test e2e nightly: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),1)

test: $(INSTALLED)
	@python -m pytest -n 2 --dist loadfile --durations=20

e2e: $(INSTALLED)
	@python -m pytest -m "e2e and not nightly" -n 2 --dist loadfile --no-loadscope-reorder

# what takes too long before every merge; .github/workflows/tests.yml runs it every night
nightly: $(INSTALLED)
	@python -m pytest -m nightly -n 2 --dist loadfile

lint: $(INSTALLED)
	@ruff check .
	ruff format --check .
	mypy

# An environment that an interrupted install left, or one of another Python, is built anew.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
	  echo "make: $(PYTHON) is missing or older than 3.11 — install Python 3.11 or newer, or name one: PYTHON=python3.12 make $(MAKECMDGOALS)" >&2
	  exit 1
	}
	@version='import sys; print("%d.%d" % sys.version_info[:2])'
	if [ "$$($(VENV)/bin/python -c "$$version" 2>/dev/null)" != "$$($(PYTHON) -c "$$version")" ] \
	    || ! $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then
	  $(PYTHON) -m venv --clear $(VENV)
	fi
	echo "make: installing into $(VENV), a few minutes the first time"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,hygiene,judge]"
	rm -f $(VENV)/.installed-with-*
	touch $@
