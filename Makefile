# Two commands for a fresh machine with Python 3.11 or newer: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS ?=
# Any value of SKDEBIAS_DATA from the environment reaches the tests and examples.

.PHONY: demo test lint types reproduce-cmnist reproduce-ule bench-heads soak-cache bench-cache bench-finetune check-gpu docs clean

demo: $(VENV)/.installed-demo
	$(BIN)/skdebias demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadscope $(TESTS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

# Table 1 of the GERNE paper on coloured MNIST: about two hours for 3 seeds, resumable.
# In ten minutes: make reproduce-cmnist SEEDS=1 MINORITY=0.5
SEEDS ?= 3
MINORITY ?= 0.5 1 2 5
reproduce-cmnist: $(VENV)/.installed-demo
	$(BIN)/python examples/reproduce/cmnist.py --seeds $(SEEDS) --minority $(MINORITY)

# Table 1 of the ULE paper, the CNN from scratch on all real MNIST digits. Runs that
# examples/reproduce/rows holds are not repeated. Anew, an hour on one core for 3 seeds:
# make reproduce-ule ULE="--out mine.csv", or ULE="--out mine.csv --rows 6000 --seeds 0"
ULE ?=
reproduce-ule: $(VENV)/.installed-reproduce
	$(BIN)/python examples/reproduce/ule_mnist.py $(ULE)

# Stacks of heads against loops of single fits, five tables; SET=a, b or celeba, which
# needs SKDEBIAS_DATA. Options of the script: make bench-heads BENCH="--tables 2 3"
SET ?= a
BENCH ?=
bench-heads: $(VENV)/.installed-demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check skorch
	OMP_NUM_THREADS=1 $(BIN)/python examples/benchmarks/heads.py --set $(SET) $(BENCH)

# Extraction, warm reads and the store against what they could be; needs the extras
# of the tests. Options of the script: make bench-cache BENCH="--tables 3 4"
bench-cache: $(VENV)/.installed-test
	$(BIN)/python examples/benchmarks/cache.py $(BENCH)

# Steps of whole networks: the methods against ERM, ERM against plain PyTorch; needs the
# extras of the tests. Options of the script: make bench-finetune BENCH="--repeats 7"
bench-finetune: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python examples/benchmarks/finetune.py $(BENCH)

# Thousands of faults in the cache of embeddings, about ten minutes; exit code 1 if
# anything breaks. Options of the script: make soak-cache SOAK="--only kills --seed 7"
SOAK ?=
soak-cache: $(VENV)/.installed-demo
	OMP_NUM_THREADS=1 $(BIN)/python examples/benchmarks/soak_cache.py $(SOAK)

# Everything that needs a GPU, in eight minutes at most, with PYTHON: the machine's own,
# which has PyTorch. Wheels of what it lacks may lie in .whl (see the script's head).
# Options of the script: make check-gpu GPU="--phases tests engine"
GPU ?=
check-gpu:
	$(PYTHON) examples/benchmarks/gpu_check.py $(GPU)

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -W -b html docs docs/_build/html

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "skdebias needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp per set of extras: a second run installs nothing.
$(VENV)/.installed-%: pyproject.toml setup.cfg | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo_output
