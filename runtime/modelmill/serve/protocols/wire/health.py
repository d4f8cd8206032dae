"""The messages of health.proto; health.pyi has their types."""

from modelmill.serve.protocols.wire import pool

DESCRIPTOR = pool.file("health.proto")
globals().update(pool.messages("health.proto"))
