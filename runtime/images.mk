# The product's images: see tests/cluster/product_images.py. Included by the Makefile above, which defines PY and venv.
# BASE=<image with Python 3.11>  FLAVOR=cpu|nvidia  TORCH_INDEX=<index with CPU wheels>  MODELMILL_REGISTRY=<registry/path>
MAKE_IMAGES = $(PY) -m tests.cluster.product_images $(if $(BASE),--base $(BASE)) $(if $(FLAVOR),--flavor $(FLAVOR)) \
	$(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

images: venv ## build the images; push them where the cluster pulls from, when it is up
	@$(MAKE_IMAGES)

images-push: venv ## the same, but fail when there is nowhere to push to
	@$(MAKE_IMAGES) --push

.PHONY: images images-push
