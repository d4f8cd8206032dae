# Benchmarks: each prints a table beside its baseline and limit; JSON=file writes the figures. Included by the Makefile above.
bench-operator: venv tools ## 1,000 TrainingJobs at 50/s, at rest, and after kill -9 (JSON=file)
	@$(PY) -m benchmarks.operator_burst $(if $(JSON),--json $(JSON))

.PHONY: bench-operator
