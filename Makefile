# `make train` and `make test` do all the set-up on a fresh machine.
PYTHON ?= python3
VENV   ?= .venv
CUDA   ?= 12
BIN    := $(VENV)/bin
NATIVE := setup.py CMakeLists.txt $(wildcard cmake/* csrc/*)

.PHONY: help train test lint unit format clean kernel-bench gpu-check

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

# CUDA 11.8, the oldest that the kernels are compiled with, lies by itself; its tests skip without it.
$(VENV)/installed: pyproject.toml $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable ".[cuda$(CUDA),train,dev]"
	-$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/cuda-11.8 nvidia-cuda-nvrtc-cu11==11.8.89
	touch $@

train: $(VENV)/installed ## train on composites, on the embedded images, beside plain training
	$(BIN)/mixpipe train --compare --speedup 1.6 --output runs/embedded

test: lint unit ## every check: lint, types, tests

lint: $(VENV)/installed ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'benchmarks/*.h' 'benchmarks/*.cu')

unit: $(VENV)/installed ## the tests
	$(BIN)/pytest -n 2 --dist worksteal

format: $(VENV)/installed ## let the formatters rewrite the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'benchmarks/*.h' 'benchmarks/*.cu')

clean: ## remove what was built here
	rm -rf build dist runs *.egg-info mixpipe/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis

build/kernel_bench: $(wildcard benchmarks/*.cu benchmarks/*.h csrc/*.cu csrc/*.h)
	mkdir -p build
	nvcc -std=c++17 -O3 $(NVCC_FLAGS) benchmarks/kernels.cu -o $@

kernel-bench: build/kernel_bench ## the shipped CUDA kernels as a program of their own (needs nvcc)

gpu-check: $(VENV)/installed build/kernel_bench ## everything that needs a GPU, into one file
	$(BIN)/python scripts/gpu_check.py --output benchmarks/results/gpu-check.json
