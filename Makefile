# make demo [IMAGES=folder]   install, then embed a folder of images (drawn ones if none is given)
# make test                   install with everything, then run the tests
# make check                  lint and types, as CI does
# make zoo IMAGES=folder WORK=folder   train the encoders in the box again
# make docs                   build the documentation into site/
# make figures                fill the figures in README and docs/ from benchmarks/results/
# make wheel-check            build the wheel and use it in a fresh environment without torch

PYTHON ?= python3
IMAGES ?= demo/samples
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check docs figures wheel-check zoo

demo: $(VENV)/.runtime
	@if [ "$(IMAGES)" = demo/samples ] && [ ! -d demo/samples ]; then $(BIN)/sslfeat samples --out demo/samples; fi
	$(BIN)/sslfeat embed "$(IMAGES)" --out demo/features --overwrite || [ $$? -eq 3 ]  # 3: some could not be read
	$(BIN)/sslfeat verify demo/features

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --max-worker-restart 0

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/zensical build --strict --clean

figures: $(VENV)/.runtime
	$(BIN)/python benchmarks/figures.py

wheel-check: $(VENV)/.dev
	PYTHON=$(BIN)/python bash .ci/wheel-check

zoo: $(VENV)/.dev
	PYTHON=$(CURDIR)/$(BIN)/python bash benchmarks/zoo.sh "$(IMAGES)" "$(WORK)"

$(VENV)/.runtime: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e .
	@touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.runtime
