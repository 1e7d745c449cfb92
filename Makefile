# The doors of the house. `make` alone checks and tests.
PYTHON ?= python
SOURCES = bpetok lm cli tests benchmarks
CORE = $(wildcard bpetok/csrc/*.h bpetok/csrc/*.cpp)
CLANG_FORMAT = "$(shell $(PYTHON) -c "import sysconfig; print(sysconfig.get_path('scripts'))")/clang-format"

.PHONY: all setup check format test slow stubs asan bench clean

all: check test

setup: ## install everything for development, editable
	$(PYTHON) -m pip install -e ".[dev]"

check: ## style, types, C++ format
	$(PYTHON) -m ruff check $(SOURCES)
	$(PYTHON) -m ruff format --check $(SOURCES)
	$(PYTHON) -m mypy
	$(CLANG_FORMAT) --dry-run --Werror $(CORE)

format: ## rewrite the files as `check` wants them
	$(PYTHON) -m ruff check --fix $(SOURCES)
	$(PYTHON) -m ruff format $(SOURCES)
	$(CLANG_FORMAT) -i $(CORE)

test: ## the tests of every change
	$(PYTHON) -m pytest

slow: ## the tests that take minutes
	$(PYTHON) -m pytest -m slow

stubs: ## write bpetok/_core.pyi from the compiled core
	cd / && $(PYTHON) -m nanobind.stubgen -m bpetok._core --exclude-values -q -o $(CURDIR)/bpetok/_core.pyi

# A core with sanitizers, installed beside the usual one; -S keeps the editable install's import hook out.
ASAN_SITE = $(CURDIR)/build/asan/site
PURELIB = $(shell $(PYTHON) -c "import sysconfig; print(sysconfig.get_path('purelib'))")

asan: ## the core's tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(PYTHON) -m pip install -q --no-deps --upgrade --target $(ASAN_SITE) -C build-dir=build/asan/core \
		-C cmake.define.BPETOK_SANITIZE=ON .
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=$(ASAN_SITE):$(PURELIB) \
		$(PYTHON) -S -P -m pytest tests/bpetok -m "not slow and not gpu"

bench: ## speed beside the peers, exactness first
	$(PYTHON) benchmarks/bench_encode.py

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
