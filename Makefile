# Baton's everyday commands. Each works on a fresh machine with Python >= 3.11 and venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?= baton/samples/intents
TASK ?= classification
IMAGE ?= baton:latest
KUBERAY := deploy/kuberay
export HF_HUB_DISABLE_TELEMETRY := 1
export PYTHONUNBUFFERED := 1

.PHONY: help demo test test-parts test-service test-clusters up check docs site bench image render clean
help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

# Compile everything once: a process that finds no bytecode loads its libraries much more slowly, and with PYTHONDONTWRITEBYTECODE
# every process would. compileall uses all cores; pip would use one. Files for another version of Python are left as they are.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-compile -c constraints.txt torch==2.13.0 -e ".[offline,dev]"
	$(BIN)/python -W ignore -m compileall -qq -j 0 -x /tests/ $(VENV)/lib baton services training || true
	touch $(STAMP)

demo: $(STAMP)  ## install and run the whole loop on the bundled samples
	$(BIN)/baton demo

# The three parts run at the same time: the tests of a running service wait half of the time, and have priority, and so
# does their training, which runs at nice 10. One part prints while it runs, the others when they have ended. Tests of a cluster wait long before
# they fail, so the first failures are enough.
test: $(STAMP)  ## install and run the test suite
	@$(MAKE) --no-print-directory -j3 test-parts test-service test-clusters

test-parts test-service test-clusters: export HF_HUB_OFFLINE := 1
# Threads of OpenMP spin where they wait for each other on busy cores. Services that tests start do not get this variable.
test-parts test-service test-clusters: export OMP_NUM_THREADS := 1
PYTEST := $(BIN)/python -m pytest
print_when_done = >$(VENV)/$@.log 2>&1; status=$$?; cat $(VENV)/$@.log; exit $$status

test-parts: $(STAMP)
	@nice -n 15 $(PYTEST) -n auto --dist loadfile --no-loadscope-reorder -m "not cluster" $(print_when_done)

test-service: $(STAMP)
	$(PYTEST) tests/cluster -m "cluster and not own_cluster" --durations=15 --maxfail=3

test-clusters: $(STAMP)
	@$(PYTEST) tests/cluster -m own_cluster --durations=15 --maxfail=3 $(print_when_done)

up: $(STAMP)  ## start the service on 127.0.0.1:8000 with baton.yaml
	$(BIN)/baton up

check: $(STAMP)  ## check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)  ## write the references of the manual (docs/) that come from the code
	$(BIN)/python -m services.references

site: $(STAMP)  ## render the manual as a site in build/site
	$(BIN)/sphinx-build -W --keep-going -n -q -c docs -d build/doctrees . build/site
	@echo "open build/site/index.html"

bench: $(STAMP)  ## measure training, serving, hand-over and metrics; run other benchmarks by module (benchmarks/)
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks --data $(DATA) --task $(TASK)

image:  ## build the container image (pass build arguments in IMAGE_ARGS)
	@if command -v docker >/dev/null && docker info >/dev/null 2>&1; then docker build -t $(IMAGE) $(IMAGE_ARGS) .; \
	elif command -v buildah >/dev/null; then buildah build --format docker -t $(IMAGE) $(IMAGE_ARGS) .; \
	else echo "make image needs a running Docker engine, or buildah. On a machine that has one, run in this directory:"; \
	echo "  docker build -t $(IMAGE) $(IMAGE_ARGS) .      or      buildah build --format docker -t $(IMAGE) $(IMAGE_ARGS) ."; \
	exit 1; fi

render: $(STAMP)  ## write the files of deploy/kuberay that come from baton.yaml and the alert rules
	for overlay in cpu gpu; do $(BIN)/baton render -c $(KUBERAY)/overlays/$$overlay/baton.yaml --out $(KUBERAY)/overlays/$$overlay || exit 1; done
	$(BIN)/baton render --rules deploy/prometheus/rules.yml --out $(KUBERAY)/base

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache *.egg-info
