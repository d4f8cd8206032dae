# The gRPC messages. Included by the Makefile above, which defines PY and venv.
proto: venv ## generate the gRPC messages' descriptors and types from the .proto files
	$(PY) -m modelmill.serve.protocols.wire.generate

.PHONY: proto
