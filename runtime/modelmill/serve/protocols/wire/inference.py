"""The messages of inference.proto; inference.pyi has their types."""

from modelmill.serve.protocols.wire import pool

DESCRIPTOR = pool.file("inference.proto")
globals().update(pool.messages("inference.proto"))
