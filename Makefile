# Each target sets itself up: a fresh machine needs Python 3.11+, a C++ compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The constraints hold the versions that CI passed with.
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt
# llama-cpp-python is compiled for this machine's CPU. The vision library that it also brings is not used here. ggml's own
# threads instead of OpenMP's: these stop spinning where the scheduler's thread and they outnumber the cores, which costs two
# thirds of the speed. -fno-dse keeps GCC 12 from miscompiling the code for Intel's AMX (see runtimes/_amx.py). The last one, and
# what is left out of its wheel, keep each library once instead of six times: 7 MB on disk instead of 55.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF -DGGML_OPENMP=OFF -DCMAKE_CXX_FLAGS=-fno-dse -DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON
export SKBUILD_WHEEL_EXCLUDE ?= lib/**;include/**;bin/**
TEST_FLAGS ?=

.PHONY: help demo test test-light soak check bench families clean
help:
	@echo "make demo        build the restaurant example and measure it"
	@echo "make test        all tests, with torch, transformers and PEFT as oracles"
	@echo "make test-light  the tests that need none of these"
	@echo "make soak        long fuzz runs"
	@echo "make check       ruff, ruff format, mypy --strict"
	@echo "make bench       benchmarks against the peer path (about 20 minutes)"
	@echo "make families    the table of families in the README, each cell from a run"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "edgekit needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip

$(VENV)/runtime.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@$(BIN)/python -c 'import llama_cpp' 2>/dev/null || echo "Compiling llama-cpp-python for this machine: once, about 5 minutes on 2 cores …"
	PYTHONWARNINGS=ignore $(INSTALL) --editable '.[llamacpp]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/runtime.stamp
	@echo "Installing the test tools …"
	PYTHONWARNINGS=ignore $(INSTALL) --editable '.[llamacpp,test]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/test.stamp
	@echo "Installing torch, transformers and PEFT (oracles of the tests), ruff and mypy …"
	PYTHONWARNINGS=ignore $(INSTALL) --editable '.[dev]'
	@touch $@

demo: $(VENV)/runtime.stamp
	$(BIN)/edgekit demo

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(TEST_FLAGS)

test-light: $(VENV)/test.stamp
	$(BIN)/python -m pytest --without-oracles $(TEST_FLAGS)

soak: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m slow $(TEST_FLAGS)

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev.stamp
	$(BIN)/python -m tests.benchmarks.run

families: $(VENV)/dev.stamp
	$(BIN)/python -m tests.benchmarks.families

clean:
	rm -rf $(VENV) dist build *.egg-info .mypy_cache .pytest_cache .ruff_cache
