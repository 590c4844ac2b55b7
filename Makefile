# Everything a user types. `make help` lists the targets.
#
#   make bench SOLUTIONS="sglang_v1 triton_v2" PROFILE=seed WORKLOADS="T=1-80" GPU=0 RUN=my-run
#   make report RUN=results/2026-02-02-b200

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
# Where the environment lives: a new folder, or what this checkout's setup made. VENV= (empty) uses PYTHON as it is, for hosts
# where everything is installed already.
VENV ?= .venv
# The packages to set up for: cpu or gpu. Default: gpu where the driver lists one.
TARGET ?= $(shell nvidia-smi -L > /dev/null 2>&1 && echo gpu || echo cpu)
# Holds CPU builds of torch; the default index has CUDA builds of several GB.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

ifeq ($(VENV),)
  RUN_PYTHON := $(PYTHON)
  READY :=
else
  RUN_PYTHON := $(VENV)/bin/python
  READY := $(VENV)/ready-$(TARGET)
endif
HARNESS := $(RUN_PYTHON) -m harness

SOLUTIONS ?=
PROFILE ?=
WORKLOADS ?=
GPU ?=
RUN ?=
SUITE ?=
BACKEND ?=
REPEATS ?=
# VERIFY=0: bench without the short form of verify; the report then says "unverified".
VERIFY ?=
# RESUME=<run>: take up a run that ended early; goes alone.
RESUME ?=
# WAIT=0: refuse instead of waiting while another run uses the GPU.
WAIT ?=
CHECKS ?=
# ROUNDS=20: how often `cheats` judges each solution. ARGS: of pytest, such as "-n 4" for four GPUs or processors.
ROUNDS ?= 1
ARGS ?=
SANITIZER ?=
SEED ?=
option = $(if $(2),--$(1) "$(2)")
comma := ,
# What a target cannot do without: $(call need,<its values>,<what to give>).
need = [ -n "$(strip $(1))" ] || { echo "error: give $(2)" >&2; exit 2; }

.PHONY: help setup bench verify report compare history list new export doctor dataset test test-gpu cheats lint format bundle clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with everything (TARGET=cpu or gpu; default: what is here)

bench: $(READY) ## run solutions, write results/<run>/ (SOLUTIONS= PROFILE= WORKLOADS= GPU= RUN= SUITE= BACKEND= REPEATS= VERIFY= WAIT=0, or RESUME= alone)
	@$(HARNESS) bench $(SOLUTIONS) $(call option,profile,$(PROFILE)) $(call option,workloads,$(WORKLOADS)) \
	  $(call option,gpu,$(GPU)) $(call option,run,$(RUN)) $(call option,suite,$(SUITE)) $(call option,backend,$(BACKEND)) \
	  $(call option,repeats,$(REPEATS)) $(if $(filter 0,$(VERIFY)),--no-verify) $(if $(filter 1,$(VERIFY)),--verify) \
	  $(if $(filter 0,$(WAIT)),--no-wait) $(call option,resume,$(RESUME))

verify: $(READY) ## examine solutions call by call (SOLUTIONS= PROFILE= WORKLOADS= GPU= RUN= BACKEND= CHECKS= SANITIZER= SEED=)
	@$(HARNESS) verify $(SOLUTIONS) $(call option,profile,$(PROFILE)) $(call option,workloads,$(WORKLOADS)) \
	  $(call option,gpu,$(GPU)) $(call option,run,$(RUN)) $(call option,backend,$(BACKEND)) \
	  $(call option,checks,$(CHECKS)) $(call option,sanitizer,$(SANITIZER)) $(call option,seed,$(SEED)) \
	  $(if $(filter 0,$(WAIT)),--no-wait)

report: $(READY) ## write comparison.md, report.html and charts of RUN=results/<run> again from its record
	@$(call need,$(RUN),RUN=results/<run>)
	@$(HARNESS) report "$(RUN)"

compare: $(READY) ## set records side by side: A=results/<run> B=results/<run> (C= THRESHOLD= percent)
	@$(call need,$(and $(A),$(B)),A= and B=$(comma) each a run such as results/<run>)
	@$(HARNESS) compare "$(A)" "$(B)" $(if $(C),"$(C)") $(call option,threshold,$(THRESHOLD))

history: $(READY) ## show one solution over all records (VARIANT= GPU_NAME=)
	@$(call need,$(VARIANT),VARIANT=$(comma) such as triton_v2)
	@$(HARNESS) history "$(VARIANT)" $(call option,gpu,$(GPU_NAME))

list: $(READY) ## show every solution and whether it can run here
	@$(HARNESS) list

new: $(READY) ## start a solution as a copy of another: NAME=my_variant (FROM=triton_v2)
	@$(call need,$(NAME),NAME=$(comma) such as my_variant)
	@$(HARNESS) new "$(NAME)" $(call option,from,$(FROM))

export: $(READY) ## write a solution as FlashInfer-Bench's solution.json: NAME=my_variant (OUT=<file>)
	@$(call need,$(NAME),NAME=$(comma) such as triton_v2)
	@$(HARNESS) export "$(NAME)" $(call option,out,$(OUT))

doctor: $(READY) ## say what is installed and what is missing, with the fix
	@$(HARNESS) doctor

dataset: $(READY) ## write a FlashInfer-Bench dataset root to OUT=<folder> (SUITE=)
	@$(call need,$(OUT),OUT=$(comma) a folder to create)
	@$(HARNESS) dataset $(SOLUTIONS) $(call option,out,$(OUT)) $(call option,suite,$(SUITE))

test: $(READY) ## run the tests that need no GPU
	@$(RUN_PYTHON) -m pytest -n 2

test-gpu: $(READY) ## run the tests that need a GPU
	@$(RUN_PYTHON) -m pytest -m gpu tests/gpu

cheats: $(READY) ## judge dishonest and honest solutions, ROUNDS=20 times on other inputs (BACKEND=gpu ARGS="-n 4")
	@CHEAT_ROUNDS=$(ROUNDS) $(RUN_PYTHON) -m pytest $(ARGS) \
	  $(if $(filter gpu,$(BACKEND)),-m gpu tests/gpu/test_cheats_gpu.py,tests/harness/verify/test_cheats.py)

lint: $(READY) ## check format and lint
	@$(RUN_PYTHON) -m ruff format --check . && $(RUN_PYTHON) -m ruff check .

format: $(READY) ## format and mend what lint can mend
	@$(RUN_PYTHON) -m ruff check --fix . ; $(RUN_PYTHON) -m ruff format .

bundle: ## collect what an offline GPU host lacks into BUNDLE=<folder>, default build/bundle
	@PYTHON=$(PYTHON) bash scripts/offline_bundle.sh $(or $(BUNDLE),build/bundle)

clean: ## remove .venv and build/
	rm -rf .venv build

# Setting up replaces packages, so it keeps to environments that this checkout made; made-by says so from the first moment
# of a setup on. One that lies in this folder may be older than that mark, or have moved with the folder.
.PHONY: own-venv
own-venv:
	@[ -z "$$(ls -A $(VENV) 2>/dev/null)" ] || [ "$$(cat $(VENV)/made-by 2>/dev/null)" = "$(CURDIR)" ] \
	  || { [ -n "$$(ls -d $(VENV)/made-by $(VENV)/ready-* 2>/dev/null)" ] && [ "$$(cd -P $(VENV)/.. && pwd)" = "$(CURDIR)" ]; } \
	  || { echo "error: VENV: $(VENV) exists and was not made by this checkout's setup, which would change it; name a new" \
	    "folder; only an empty VENV= uses the current interpreter as it is: VENV= PYTHON=$(VENV)/bin/python" >&2; exit 2; }

# torch goes first and alone, so that only it is looked for in the index of CPU builds; where that index cannot be
# reached, whatever the default index has is taken.
$(VENV)/ready-cpu: pyproject.toml | own-venv
	mkdir -p $(VENV) && echo "$(CURDIR)" > $(VENV)/made-by
	$(PYTHON) -m venv $(VENV)
	rm -f $(VENV)/ready-*
	$(RUN_PYTHON) -m pip install -q --retries 0 --no-deps --extra-index-url $(TORCH_CPU_INDEX) torch==2.13.0
	$(RUN_PYTHON) -m pip install -q -e '.[cpu,dev]'
	touch $@

$(VENV)/ready-gpu: pyproject.toml | own-venv
	mkdir -p $(VENV) && echo "$(CURDIR)" > $(VENV)/made-by
	$(PYTHON) -m venv $(VENV)
	rm -f $(VENV)/ready-*
	$(RUN_PYTHON) -m pip install -q -e '.[gpu,dev]'
	touch $@
