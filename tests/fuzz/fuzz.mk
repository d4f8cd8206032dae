# Files that mean harm, and other people's software on our exports. Included by the Makefile at the top.
FUZZ := $(MODELMILL_CACHE)/fuzz

fuzz: venv ## made-up weights files for the readers; SECONDS=600 (the corpus grows in the cache, a find is kept in crash-*)
	@mkdir -p $(FUZZ)/corpus && $(PY) -m tests.fuzz.seeds $(FUZZ)/seeds
	OMP_NUM_THREADS=1 $(PY) -m tests.fuzz.fuzz_weights $(FUZZ)/corpus $(FUZZ)/seeds \
		-max_total_time=$(or $(SECONDS),600) -max_len=65536 -artifact_prefix=$(FUZZ)/ -print_final_stats=1

test-formats: venv ## exports in the real compressed-tensors and onnxruntime; the fuzzer for seconds
	$(PY) -m pytest tests/formats tests/fuzz

test: test-formats
.PHONY: fuzz test-formats
