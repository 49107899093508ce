# The environment lives in .venv, made once; every target uses it. `make` alone lists the targets.
PYTHON ?= python3
# A package index for torch and torchvision alone, e.g. TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
PYTEST_ARGS ?=
# Test files are dealt out to so many processes, of one thread each; PYTEST_ARGS="-n 0" is for a debugger.
TEST_WORKERS ?= 2

BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=15
DEALT := -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
CODE := p2m_core p2m_synth p2m_workbench tests benchmarks docs notebooks
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-gpu lint docs bench bench-gpu notebooks weights clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo "variables: PYTHON=$(PYTHON) (3.11 to 3.13), TORCH_INDEX=URL (a CPU build of torch), PYTEST_ARGS, TEST_WORKERS"

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, see PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX) \
		$$(grep -E '^torch(vision)?==' requirements.lock))
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: $(STAMP) ## the whole path in some minutes: faces, training, tables, a photo's mesh in outputs/demo/
	$(BIN)/python -m p2m_workbench demo

test: $(STAMP) ## the tests, without the slow ones
	$(PYTEST) $(DEALT) $(PYTEST_ARGS)

test-all: $(STAMP) ## all tests
	$(PYTEST) $(DEALT) -m "" $(PYTEST_ARGS)

test-gpu: $(STAMP) ## the tests that need a CUDA device
	$(PYTEST) -m gpu $(PYTEST_ARGS)

lint: $(STAMP) ## ruff on code and notebooks, the import rules, the types of p2m_core, and that notebooks are stripped
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports
	$(BIN)/mypy p2m_core
	$(BIN)/nbstripout --verify notebooks/*.ipynb

docs: $(STAMP) ## API pages from the docstrings, into docs/api/index.html
	$(BIN)/python docs/build_api.py

bench: $(STAMP) ## every benchmark: a ratio against a named baseline in the same run
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

bench-gpu: $(STAMP) ## what needs a CUDA device, into benchmarks/gpu.json
	$(BIN)/python benchmarks/gpu.py

notebooks: $(STAMP) ## the notebooks of CONFIG=face-lite
	$(BIN)/python -m p2m_workbench run --config $(or $(CONFIG),face-lite)

weights: $(STAMP) ## weights like the bundled ones, some six hours on 2 cores: faces, store, training, fp16 copy
	$(BIN)/python -m p2m_workbench synth --config weights
	$(BIN)/python -m p2m_workbench preprocess --config weights
	$(BIN)/python -m p2m_workbench train --config weights
	$(BIN)/python -m p2m_core.network.weights outputs/weights/weights.safetensors p2m_core/weights/face-lite.safetensors

clean: ## remove caches; never the environment, data or outputs
	rm -rf .pytest_cache .ruff_cache build docs/api *.egg-info
	find p2m_core p2m_synth p2m_workbench tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
