# Every target sets up what it needs; nothing is expected but Python 3.11+ and, better, a C++ compiler.
#   make demo    train, evaluate and use a small classifier on this machine's own documentation
#   make test    the CPU suite; peers of requirements/peers.txt take part where installed
#   make lint    ruff, mypy, clang-format, CUDA sources through nvcc where there is one
#   make docs    the documentation site to build/site; every warning is an error
#   make bench   benchmarks of this machine to benchmarks/results, and the README's table
#   make cuda-host  the CUDA kernels on this machine's CPU, every size (half an hour)
#   make fuzz    a fuzzer guided by coverage on every reader, random calls of every op (hours)
#   make sanitize  the CPU kernels under the address, undefined behaviour and thread sanitizers
#   make gpu     on a machine with a GPU, with $(PYTHON)'s own torch: build, GPU tests, small ones of them
#                under compute-sanitizer too (make gpu-sanitize), benchmarks
#   make clean   delete what was built, the demo's run, and .venv
# QUICK=1 shortens bench and gpu; PYTEST_ARGS is handed to pytest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
PYTEST_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUILT := $(VENV)/.built
PIP := $(BIN)/python -m pip --disable-pip-version-check -q -q install
CXX_SOURCES := $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.cuh csrc/*/*.cu)
CUDA_SOURCES := $(wildcard csrc/cuda/*.cu)
HOST_SOURCES := $(wildcard tests/cuda_host/*)
BENCHMARK_FLAGS := $(if $(QUICK),--quick)

# The toolkit that nvcc itself names: the nvcc in PATH may be a script that calls another.
TOOLKIT = $(or $(CUDA_HOME),$(shell nvcc --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^\#\$$ TOP=//p'))

.PHONY: demo test lint bench cuda-host fuzz sanitize sanitize-memory sanitize-threads gpu gpu-sanitize docs clean
.DELETE_ON_ERROR:

$(INSTALLED): requirements/dev.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing requirements/dev.txt into $(VENV)"
	@$(PIP) -r requirements/dev.txt
	@touch $@

# An editable install: only the libraries, the metadata and the command need it again.
$(BUILT): $(INSTALLED) setup.py pyproject.toml $(CXX_SOURCES)
	@mkdir -p build
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip --disable-pip-version-check install -v \
	    --no-build-isolation --no-deps -e . > build/install.log 2>&1 || { cat build/install.log; exit 1; }
	@grep -o "ulmfit_fast: building .*" build/install.log
	@touch $@

demo: $(BUILT)
	$(BIN)/ulmfit-fast demo

test: $(BUILT)
	@$(BIN)/python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('fastai') is None)" \
	    || echo "left out: comparisons with fastai (to add them: $(BIN)/pip install -r requirements/peers.txt)"
	@command -v nvcc > /dev/null || echo "left out: compilation of the CUDA sources (no nvcc)"
	$(BIN)/python -m pytest -q --numprocesses=auto --maxprocesses=4 --dist=worksteal $(PYTEST_ARGS)

lint: $(BUILT)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES) $(HOST_SOURCES)
	@if command -v nvcc > /dev/null; then \
	    mkdir -p build; \
	    for source in $(CUDA_SOURCES); do \
	        echo "nvcc -gencode=arch=compute_90a,code=sm_90a $$source"; \
	        nvcc -std=c++20 -DUSE_CUDA -gencode=arch=compute_90a,code=sm_90a -c $$source -o build/lint.o; \
	    done; \
	else echo "left out: compilation of the CUDA sources (no nvcc)"; fi
	$(BIN)/python benchmarks/report.py --check
	$(BIN)/python -m benchmarks.accuracy table --check

# The versions of requirements/peers.txt; nothing is built. --quiet would hide warnings from --strict.
docs: $(INSTALLED)
	@$(PIP) -c requirements/peers.txt mkdocs mkdocs-material mkdocstrings mkdocstrings-python
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "build/site/index.html"

bench: $(BUILT)
	$(BIN)/python benchmarks/run.py $(BENCHMARK_FLAGS)
	$(if $(QUICK),,$(BIN)/python benchmarks/report.py)

cuda-host: $(BUILT)
	$(BIN)/python -m pytest -q -m cuda_host tests/test_cuda_host*.py $(PYTEST_ARGS)

FUZZ_RUNS ?= 1000000
FUZZ_TARGETS := vocabulary settings tables models snapshots fastai_weights
fuzz: $(BUILT)
	@$(PIP) -r requirements/fuzz.txt
	@for target in $(FUZZ_TARGETS); do \
	    $(BIN)/python tests/fuzz/run.py $$target --runs $(FUZZ_RUNS) || exit 1; \
	done
	$(BIN)/python tests/ops_fuzz_runs.py --examples 5000 --anew --last build/last_call

SANITIZED_TESTS := tests/test_sanitizers.py tests/test_cpu_lstm.py tests/test_cpu_scratch.py tests/test_functional.py \
    tests/test_layers.py tests/test_layerwise_adamw.py tests/test_loss.py tests/test_lstm_chunks.py \
    tests/test_ops_fuzz.py
sanitize-memory: KIND = address,undefined
sanitize-memory: RUNTIMES = asan ubsan
sanitize-threads: KIND = thread
sanitize-threads: RUNTIMES = tsan
sanitize-threads: export TEST_THREADS = 3
sanitize: sanitize-memory sanitize-threads

# setarch: the thread sanitizer cannot do with randomized addresses.
sanitize-memory sanitize-threads: $(INSTALLED)
	@mkdir -p build/$@
	PATH="$(abspath $(BIN)):$$PATH" ULMFIT_FAST_BUILD=cpu ULMFIT_FAST_SANITIZE=$(KIND) $(BIN)/python setup.py -q build \
	    --build-base build/$@/objects --build-lib build/$@/package > build/$@/log 2>&1 || { cat build/$@/log; exit 1; }
	LD_PRELOAD="$(foreach name,$(RUNTIMES),$(shell $(CXX) -print-file-name=lib$(name).so))" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    TSAN_OPTIONS=ignore_noninstrumented_modules=1,halt_on_error=1 PYTHONPATH=build/$@/package \
	    setarch -R $(BIN)/python -P -m pytest -q -p no:cacheprovider $(SANITIZED_TESTS) $(PYTEST_ARGS)

gpu:
	@$(PYTHON) -c "import sys, torch; sys.exit(torch.version.cuda is None)" 2> /dev/null \
	    || { echo "make gpu: $(PYTHON) has no CUDA build of torch; name one that has: make gpu PYTHON=..."; exit 2; }
	@$(PYTHON) -c "import sys, torch; sys.exit(not torch.cuda.is_available())" \
	    || { echo "make gpu: torch sees no GPU on this machine"; exit 2; }
	CUDA_HOME="$(TOOLKIT)" ULMFIT_FAST_BUILD=cuda $(PYTHON) setup.py build_ext --inplace
	$(PYTHON) -m pytest -q -p no:cacheprovider -m gpu tests/gpu tests/test_cuda_host.py --require-gpu $(PYTEST_ARGS)
	@mkdir -p build
	$(MAKE) --no-print-directory gpu-sanitize
	nvcc -std=c++20 -O3 -arch=native benchmarks/persistent_parts.cu -o build/persistent_parts
	build/persistent_parts | tee "$${OUT:-build}/persistent-parts.json"
	$(PYTHON) benchmarks/run.py --device cuda $(BENCHMARK_FLAGS) --results "$${OUT:-benchmarks/results}"

# Every op at a small size: the tools make it many times slower. The persistent kernels have a test of
# their own, which calls the tools itself.
CHECKED_TESTS := $(addprefix tests/gpu/test_gpu_,drop_connect.py layers.py loss.py lstm.py optim.py)
CHECKED_NAMES := keeps_the_registration_contract or not_finite_changes_nothing
SANITIZER_TOOLS := memcheck racecheck synccheck initcheck
SANITIZER_OUT = $${OUT:-build}/compute-sanitizer

# Without torch's cache of memory, which would hide what is read or written beyond a tensor.
gpu-sanitize:
	@command -v compute-sanitizer > /dev/null \
	    || { echo "left out: CUDA kernels under compute-sanitizer (not in PATH)"; exit 0; }; \
	mkdir -p "$(SANITIZER_OUT)"; failed=0; \
	for tool in $(SANITIZER_TOOLS); do \
	    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 \
	        $(PYTHON) -m pytest -q -p no:cacheprovider -m gpu $(CHECKED_TESTS) --require-gpu \
	        -k "$(CHECKED_NAMES)" > "$(SANITIZER_OUT)/$$tool.log" 2>&1 \
	        && echo "compute-sanitizer $$tool: clean" \
	        || { failed=1; echo "compute-sanitizer $$tool: failed"; tail -n 20 "$(SANITIZER_OUT)/$$tool.log"; }; \
	done; exit $$failed

clean:
	rm -rf $(VENV) build dist *.egg-info ulmfit_fast/*.so runs/demo .pytest_cache .hypothesis .mypy_cache .ruff_cache
