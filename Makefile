# make demo   set everything up, then watch a frozen model learn to follow instructions
# make test   set everything up, then run the tests
# make check  ruff, the type checker and the test that imports run one way
# make wheel  build the wheel into dist/
# make clean  remove what these made, the runs aside
#
# Set-up happens once: it is repeated only when pyproject.toml or constraints.txt change. Another Python: make PYTHON=python3.12.
# On Linux without a GPU, the CPU build of torch saves gigabytes: make TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX ?=
# Test processes: three where CI has two cores, since tests that start processes wait for them.
WORKERS ?= 3

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.zerogate-ready
# Apart: where they are installed, PEFT imports them each time, which takes seconds.
QUANT := $(CURDIR)/$(VENV)/quant
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: help setup demo test check wheel clean

help:
	@sed -n 's/^# //p' Makefile | head -n 5

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: zerogate needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; name one: make PYTHON=python3.12")'
	@test -x $(BIN)/python || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing torch (the largest part; once)"
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo "Installing zerogate and its tools"
	@$(PIP) --editable '.[dev]'
	@$(PIP) --no-deps --upgrade --target $(QUANT) bitsandbytes torchao
	@touch $@

demo: $(READY)
	$(BIN)/zerogate demo

test: $(READY)
	OMP_NUM_THREADS=1 PYTHONPATH=$(QUANT) $(BIN)/python -m pytest tests/bases/test_quantize.py tests/contract/test_bottleneck_lifecycle.py -k "bits or quantised"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py

wheel: $(READY)
	$(BIN)/python -m build --wheel --outdir dist

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
