# Modelmill: `make help` tells every target.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export MODELMILL_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/modelmill
export MODELMILL_DATA ?= $(abspath ../shared/data)
# Where byte code may not be written, every process compiles torch anew: 6 s of CPU.
export PYTHONDONTWRITEBYTECODE :=
export MYPY_CACHE_DIR ?= $(MODELMILL_CACHE)/mypy
PY := .venv/bin/python
# Debian's where it is, which is what the image ships and is built with all optimizations; else any that uv finds.
# With its headers, for the native modules; uv's own have theirs.
PYTHON ?= $(if $(wildcard /usr/include/python3.11/Python.h),/usr/bin/python3.11,3.11)

CPP := $(wildcard runtime/native/*/*.?pp)

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

venv: .venv/.native ## the development environment, from the lock file
.venv/.stamp: lock/dev.txt pyproject.toml
	@command -v uv >/dev/null || python3 -m pip install -q uv
	@uv venv -q --clear --python $(PYTHON) .venv
	@uv pip sync -q --python $(PY) --require-hashes lock/dev.txt
	@uv pip install -q --python $(PY) --no-deps -e .
	@touch $@
.venv/.native: .venv/.stamp runtime/native/build.py $(CPP)
	@$(PY) runtime/native/build.py runtime >/dev/null
	@touch $@

lock: ## resolve the lock files anew
	uv pip compile -q --upgrade --python-version 3.11 --no-emit-index-url --no-header --no-annotate --generate-hashes --extra dev pyproject.toml -o lock/dev.txt
	for e in operator runtime; do uv pip compile -q --python-version 3.11 --no-emit-index-url --no-header --no-annotate --generate-hashes --extra $$e -c lock/dev.txt pyproject.toml -o lock/$$e.txt; done

lint: venv ## ruff, format, mypy, import-linter, clang-format
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports
	@.venv/bin/clang-format --dry-run -Werror $(CPP)

format: venv ## rewrite the sources in the project's format
	.venv/bin/ruff check --fix . ; .venv/bin/ruff format . ; .venv/bin/clang-format -i $(CPP)

test-unit: venv ## unit tests: no cluster, seconds
	$(PY) -m pytest -n 3 --dist loadfile tests/unit

test-surface: venv ## the serving runtime under KServe's, OpenAI's and made-up requests; EXAMPLES=1000 makes up more of them
	$(PY) -m pytest tests/surface

soak: venv ## a serving process at 1.5 times its capacity among clients that misbehave; SECONDS=600
	SECONDS=$(or $(SECONDS),600) $(PY) -m pytest -s tests/soak

test-control-plane: venv tools ## against a real etcd, API server and controller manager
	@# Operators that a test crashes inside its own process close no socket: that is the point of it.
	$(PY) -m pytest -W ignore::ResourceWarning tests/control_plane

test-e2e: venv ## on a real cluster with real pods (JSON=file writes the promised figures); a cluster that it brought up goes again
	@eval "$$($(PY) -m tests.cluster env)"; kubectl get --raw /readyz >/dev/null 2>&1 && was_up=yes; \
	$(MAKE) --no-print-directory cluster && $(MAKE) --no-print-directory images-push && \
	$(PY) -m pytest -n 2 --dist loadfile -m "not alone" tests/e2e && $(PY) -m pytest -m alone tests/e2e; code=$$?; \
	test -n "$$was_up" || $(MAKE) --no-print-directory cluster-down; exit $$code

test: lint test-unit test-compression test-surface ## everything
	@$(MAKE) --no-print-directory soak SECONDS=60
	@$(MAKE) --no-print-directory test-control-plane test-e2e

crds: venv ## generate crds/*.yaml and the chart's copies from the typed API
	$(PY) -m modelmill_operator.api.generate

-include tests/cluster/cluster.mk
-include runtime/images.mk
-include examples/demo.mk
-include benchmarks/bench.mk
-include runtime/proto.mk
-include tests/fuzz/fuzz.mk
.PHONY: help venv lock lint format test test-unit test-surface soak test-control-plane test-e2e crds

test-gpu: venv ## what only a GPU can show (needs one; RESULTS=file writes the figures)
	$(PY) -m pytest tests/gpu
.PHONY: test-gpu
