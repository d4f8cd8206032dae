# Benchmarks: each prints a table beside its baseline and limit; JSON=file writes the figures. Included by the Makefile above.
bench-operator: venv tools ## 1,000 TrainingJobs at 50/s, at rest, and after kill -9 (JSON=file)
	@$(PY) -m benchmarks.operator_burst $(if $(JSON),--json $(JSON))

.PHONY: bench-operator

bench-serving: venv ## our serving runtime beside six peers, answers checked, rounds interleaved (JSON=file ARGS="--workloads mlp --peers triton --rounds 2")
	@$(PY) -m benchmarks.serving $(if $(JSON),--json $(JSON)) $(ARGS)

.PHONY: bench-serving

VARIANTS := $(MODELMILL_CACHE)/bench/variants
bench-compression: venv ## our compressed models beside torchao, PT2E and neural-compressor, rounds interleaved; loading beside reading (JSON=file ARGS="--models minilm --rounds 2")
	@$(PY) -m benchmarks.compression.variants $(VARIANTS)
	@MODELMILL_VARIANTS=$(VARIANTS) $(PY) -m benchmarks.compression $(if $(JSON),--json $(JSON)) $(ARGS)

.PHONY: bench-compression

bench-kernels: venv ## products with coded weights beside float32, aten and oneDNN, one thread (JSON=file ARGS="--rounds 20")
	@$(PY) -m benchmarks.kernels $(if $(JSON),--json $(JSON)) $(ARGS)

.PHONY: bench-kernels
