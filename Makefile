# make demo    environment, then checkpoint -> tokens -> report on the two embedded models
# make test    environment, then formatter, linters, types, import arrows and every test
# make check   the same without the tests marked slow
# make plugin-test the plugin libraries of every GPU and Jetson, optimized as users have them
# make gpu-test kernels against their references on this machine's GPU (needs nvcc, cmake, ninja, torch with CUDA)
# make clean   removes everything these made, the environment too
#
# Each command makes .venv by itself the first time. PYTHON=python3.12 chooses the interpreter,
# PYTEST_ARGS='-k scan' narrows the tests.

SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo test check plugin-test gpu-test lint clean environment-demo environment-dev

BIN := .venv/bin
STAGES := calib exporter plugins runtime targets
START := $(shell date +%s)
DONE = echo; echo "make $@: done in $$(($$(date +%s) - $(START))) s"
# one thread a test process: the tests are small, and pytest runs several processes
PYTEST = env OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup -q $(PYTEST_ARGS)

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

environment-demo:
	@ci/environment compare,runtime

environment-dev:
	@ci/environment dev

# mypy does not see pyproject's package-dir: through this link it finds quamba_export.calib, ... in the checkout
.ns/quamba_export:
	@mkdir -p .ns && ln -sfn .. $@

lint: environment-dev .ns/quamba_export
	@ci/step "format" $(BIN)/ruff format --check .
	@ci/step "lint" $(BIN)/ruff check .
	@ci/step "types" $(BIN)/mypy --strict $(STAGES:%=-p quamba_export.%)
	@ci/step "import arrows" $(BIN)/lint-imports --no-logo

check: lint
	@ci/step "tests but for the slow ones" $(PYTEST) -m "not slow"
	@$(DONE)

test: lint
	@ci/step "tests" $(PYTEST)
	@$(DONE)

plugin-test: environment-dev
	@ci/step "plugin libraries, optimized" env QUAMBA_OPTIMIZED=1 $(PYTEST) tests/plugins/test_plugin_library.py
	@$(DONE)

gpu-test:
	@ci/step "kernels on the GPU" ci/gpu-test $(PYTEST_ARGS)
	@$(DONE)

# The main job on each embedded model; every step's JSON stays in demo-out/<model>/, where `report` finds it.
MODELS := mamba2-kjv mamba1-kjv
CLI := $(BIN)/quamba-export
CALIBRATION_TEXT := embedded/calibration.txt --calib-size 128 --calib-seqlen 512
VALIDATION_TEXT := embedded/validation.txt --max-tokens 4096
PROMPT := --prompt "In the beginning" --max-new-tokens 120 --temperature 0.7 --top-p 0.95 --seed 7

demo: environment-demo $(MODELS:%=demo-out/%)
	@ci/step "report" $(CLI) report demo-out -o demo-out/report.html
	@ci/step "summary" $(BIN)/python ci/summary.py demo-out
	@$(DONE)
	@echo "open demo-out/report.html"

.PHONY: $(MODELS:%=demo-out/%)
$(MODELS:%=demo-out/%): demo-out/%: environment-demo
	@rm -rf $@ && mkdir -p $@
	@ci/step -o $@/calibrate.json "$*: calibrate" $(CLI) calibrate embedded/$* --data $(CALIBRATION_TEXT) -o $@/calibration --json
	@ci/step -o $@/export.json "$*: export" $(CLI) export embedded/$* --calibration $@/calibration -o $@/export --json
	@ci/step -o $@/build.json "$*: build" $(CLI) build $@/export --target cpu -o $@/bundle --json
	@ci/step -o $@/compare.json "$*: compare" $(CLI) compare $@/bundle --against embedded/$* --data embedded/validation.txt --max-tokens 1024 --json
	@ci/step -o $@/eval-float.json "$*: eval before" $(CLI) eval embedded/$* --data $(VALIDATION_TEXT) --json
	@ci/step -o $@/eval-prefill.json "$*: eval after" $(CLI) eval $@/bundle --against embedded/$* --data $(VALIDATION_TEXT) --json
	@ci/step -o $@/eval-decode.json "$*: eval after, token by token" $(CLI) eval $@/bundle --mode decode --data $(VALIDATION_TEXT) --json
	@$(CLI) inspect embedded/$* --json > $@/inspect-checkpoint.json
	@$(CLI) inspect $@/calibration --json > $@/inspect-calibration.json
	@$(CLI) inspect $@/export --json > $@/inspect-export.json
	@ci/step "$*: run" $(CLI) run $@/bundle $(PROMPT)
	@$(CLI) run $@/bundle $(PROMPT) --json > $@/run.json

clean:
	rm -rf .venv .ns demo-out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
