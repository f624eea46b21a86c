# Two commands on a fresh machine with Python >= 3.11 and make:
#   make demo   a zoo of 1,200 networks on real images, hyper-representations, new networks, a report
#   make test   linter, type checker and every test
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-$(shell $(PYTHON) -c "import hashlib;print(hashlib.sha256(open('pyproject.toml','rb').read()).hexdigest()[:16])")

.DEFAULT_GOAL := help
.PHONY: help install demo tour test lint bench bench-gpu bench-hyperrep bench-store bench-tasks clean

help:
	@sed -n '1,3p' Makefile | sed 's/^# \{0,1\}//'

$(STAMP):
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'Python >= 3.11 is needed, this is ' + sys.version.split()[0] + '. Choose another with make PYTHON=python3.12')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@rm -f $(VENV)/.installed-*
	@touch $(STAMP)

install: $(STAMP)  ## virtual environment with everything

demo: $(STAMP)
	$(BIN)/hyperrep study digits --out data/demo

tour: $(STAMP)  ## runs docs/tour.md and writes its outputs, figures and notebook
	$(BIN)/python docs/execute.py docs/tour.md

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy zookeeper hyperrep benchmarks docs/execute.py

test: $(STAMP) lint
	$(BIN)/python -m pytest

bench: $(STAMP)  ## half an hour, on a machine that does nothing else
	$(BIN)/python benchmarks/training.py --out benchmarks/RESULTS.md
	$(BIN)/python benchmarks/workers.py --out benchmarks/RESULTS.md

bench-store: $(STAMP)  ## needs a digits zoo: zookeeper build zoo_specs/digits_cnn.yaml
	$(BIN)/python benchmarks/storage.py --out benchmarks/RESULTS.md
	$(BIN)/python benchmarks/storage_large.py --out benchmarks/RESULTS.md
	$(BIN)/python benchmarks/storage_others.py --out benchmarks/RESULTS.md

bench-tasks: $(STAMP)
	$(BIN)/python benchmarks/evaluation.py --out benchmarks/RESULTS.md

bench-hyperrep: $(STAMP)  ## one training step of paper 000; needs 12 GB of memory and a C++ compiler
	$(BIN)/python benchmarks/hyperrep_step.py --out benchmarks/RESULTS.md

bench-gpu: $(STAMP)  ## needs an NVIDIA GPU
	$(BIN)/python benchmarks/gpu.py --out benchmarks/RESULTS.md

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
