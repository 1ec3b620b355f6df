# Everything here works on a fresh clone; each target makes what it needs first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint types bench report wheel clean

help: ## list the targets
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

$(READY): pyproject.toml CMakeLists.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[headless]'
	touch $@

demo: $(READY) ## enrol one person and identify the sample clip, offline
	@mkdir -p demo/out && rm -f demo/out/*
	$(BIN)/edgeface enroll demo/out/people.gallery "Eileen Collins" examples/sample/eileen.jpg
	$(BIN)/edgeface identify --video examples/sample/clip.mp4 --gallery demo/out/people.gallery \
	    --out demo/out/overlay.mp4
	$(BIN)/python examples/still.py demo/out/overlay.mp4 demo/out/overlay.png

test: $(READY) ## run the test suite
	$(BIN)/pip install --quiet --editable '.[headless,dev,numba,openvino]'
	$(BIN)/python -m pytest $(TESTS)

lint: $(READY) ## ruff, format check included
	$(BIN)/pip install --quiet --editable '.[headless,dev,numba,openvino]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	$(BIN)/pip install --quiet --editable '.[headless,dev,numba,openvino]'
	$(BIN)/mypy
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then $(BIN)/mypy -p export -p bench; \
	    else echo 'export and bench: not checked, torch is not installed'; fi

bench: $(READY) ## quick run of every bench; needs the shared data and torch
	$(BIN)/pip install --quiet --editable '.[headless,bench,export]'
	$(BIN)/python -m bench --quick

report: $(READY) ## pages, pictures and the README's table from bench/reports/*.json
	$(BIN)/pip install --quiet --editable '.[headless,bench]'
	$(BIN)/python -m bench report

wheel: ## build sdist and wheel and try them outside the checkout
	.ci/wheels

clean: ## remove the venv and everything built
	rm -rf $(VENV) build dist demo/out .pytest_cache .mypy_cache .ruff_cache .hypothesis
