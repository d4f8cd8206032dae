# Files that mean harm, and other people's software on our exports. Included by the Makefile at the top.
FUZZ := $(MODELMILL_CACHE)/fuzz

fuzz: venv ## made-up weights files for the readers; SECONDS=600 (the corpus grows in the cache, a find is kept in crash-*)
	@mkdir -p $(FUZZ)/corpus && $(PY) -m tests.fuzz.seeds $(FUZZ)/seeds
	OMP_NUM_THREADS=1 $(PY) -m tests.fuzz.fuzz_weights $(FUZZ)/corpus $(FUZZ)/seeds \
		-max_total_time=$(or $(SECONDS),600) -max_len=65536 -artifact_prefix=$(FUZZ)/ -print_final_stats=1

test-compression: venv ## every method, kernel and format: training, instruction sets, compressed-tensors, onnxruntime, a short fuzz
	$(PY) -m pytest -n 3 --dist loadfile tests/compression tests/fuzz

.PHONY: fuzz test-compression
