# `make demo` and `make test` work on a fresh clone: each builds the environment that it needs, once.
# Versions stand in constraints.txt, ranges in pyproject.toml; this file names neither.
#
#   make demo     score the pictures that come with fasedge
#   make test     everything that must hold: tests, types, style, layers
#   make lint     the quick part of it: style, types, layers
#   make format   put the code into shape
#   make readme   write the model tables of README and docs/models.md anew
#   make clean    remove environments and outputs
#
#   make test PYTHON=python3.12          another interpreter
#   make test PYTEST_ARGS="-m 'not slow'"  arguments for pytest

ifndef PYTHON
PYTHON := $(shell sh .ci/find-python)
endif

DEMO := .venv-demo
TEST := .venv-test
TFLITE := .venv-tflite-runtime
PACKAGE := pyproject.toml README.md LICENSE NOTICE \
    $(shell find fasedge -type f ! -name '*.pyc' 2>/dev/null)

# $(call install,ENVIRONMENT,CONSTRAINTS,WHAT,LIBRARIES): make an environment and install into it in one pip command, so
# that every pin counts for every package: torch asked for on its own would bring another build of itself along.
define install
@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer with venv and pip (Debian: apt-get install python3-venv)" >&2; exit 1; }
@$(PYTHON) .ci/system_libraries.py $(4)
@echo "building $(1) with $(PYTHON); this happens once"
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
@$(1)/bin/python -m pip install --quiet --upgrade --constraint constraints.txt pip
$(1)/bin/python -m pip install --quiet --build-constraint constraints.txt --constraint $(2) $(3)
@$(1)/bin/python -m pip check
@touch $@
endef

.PHONY: help demo test lint format readme clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

demo: $(DEMO)/.ready
	$(DEMO)/bin/fasedge demo --out demo-output

# Installed as a user would, not editable: the demo runs what the wheel holds. It finds faces without MediaPipe.
$(DEMO)/.ready: $(PACKAGE) constraints.txt
	$(call install,$(DEMO),constraints.txt,'.[runtime]',--optional MediaPipe)

$(TEST)/.ready: pyproject.toml constraints.txt
	$(call install,$(TEST),constraints.txt,--group dev --editable '.[runtime]')

$(TFLITE)/.ready: pyproject.toml constraints-tflite-runtime.txt
	$(call install,$(TFLITE),constraints-tflite-runtime.txt,--editable '.[tflite-runtime]',--optional MediaPipe)

# The older interpreter of TFLite models needs NumPy 1 and has no wheel beyond Python 3.11, so it lives apart. The tests
# call it through its own Python; where it cannot be had they are skipped and say so.
HAS_TFLITE_RUNTIME := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("yes" if sys.platform == "linux" and sys.version_info < (3, 12) else "")'))

test: $(TEST)/.ready $(if $(HAS_TFLITE_RUNTIME),$(TFLITE)/.ready)
	$(if $(HAS_TFLITE_RUNTIME),FASEDGE_TFLITE_RUNTIME_PYTHON="$(CURDIR)/$(TFLITE)/bin/python") \
	    $(TEST)/bin/python -m pytest $(PYTEST_ARGS)

lint: $(TEST)/.ready
	$(TEST)/bin/python -m pytest tests/packaging/test_layers.py

format: $(TEST)/.ready
	$(TEST)/bin/ruff check --fix .
	$(TEST)/bin/ruff format .

readme: $(TEST)/.ready
	$(TEST)/bin/python -m quantize.readme

clean:
	rm -rf $(DEMO) $(TEST) $(TFLITE) demo-output dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
