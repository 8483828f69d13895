# Baton's everyday commands. Each works on a fresh machine with Python >= 3.11 and venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?= baton/samples/intents
TASK ?= classification
export HF_HUB_DISABLE_TELEMETRY := 1
export PYTHONUNBUFFERED := 1

.PHONY: help demo test up check bench image clean
help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e ".[offline,dev]"
	touch $(STAMP)

demo: $(STAMP)  ## install and run the whole loop on the bundled samples
	$(BIN)/baton demo

test: $(STAMP)  ## install and run the test suite
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not cluster"
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m cluster

up: $(STAMP)  ## the service on 127.0.0.1:8000 with baton.yaml
	$(BIN)/baton up

check: $(STAMP)  ## lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## all benchmarks; results and machine go to benchmarks/RESULTS.md
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks --data $(DATA) --task $(TASK)

image:  ## the container image
	@test -f Dockerfile || { echo "make image: this version has no Dockerfile yet"; exit 1; }
	@command -v docker >/dev/null || { echo "make image needs docker, which is not on the PATH"; exit 1; }
	docker build -t baton:latest .

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache *.egg-info
