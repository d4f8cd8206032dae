# The demo: see examples/demo/__main__.py. Included by the Makefile above.
demo: ## cluster, images, chart, and the whole mill once, with live progress (JSON=file writes the figures)
	@start=$$(date +%s); test -d "$(MODELMILL_CACHE)/bin" || cold=1; \
	$(MAKE) --no-print-directory venv && $(MAKE) --no-print-directory cluster && $(MAKE) --no-print-directory images-push && \
	eval "$$($(PY) -m tests.cluster env)" && \
	MODELMILL_DEMO_START=$$start MODELMILL_DEMO_COLD=$$cold $(PY) -m examples.demo

.PHONY: demo
