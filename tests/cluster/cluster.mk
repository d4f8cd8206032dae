# The local cluster: see tests/cluster/__main__.py. Included by the Makefile above, which defines PY and the target venv.
CLUSTER := $(PY) -m tests.cluster

cluster: venv ## bring up the local Kubernetes cluster (idempotent)
	@$(CLUSTER) up

cluster-down: venv ## take it down; built programs and pushed images stay
	@$(CLUSTER) down

cluster-status: venv ## which cluster is used, and how it is
	@$(CLUSTER) status

tools: venv ## build the cluster's programs without starting them
	@$(CLUSTER) tools

.PHONY: cluster cluster-down cluster-status tools
