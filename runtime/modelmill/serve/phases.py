"""How long each phase of the start took: import, fetch, load, warm-up; in the log and in metrics."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from modelmill.observe.metrics import Metrics

log = logging.getLogger(__name__)


class Phases:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._metrics.phase_seconds.labels(phase).set(seconds)
        log.info("%s took %.3f s", phase, seconds, extra={"fields": {"phase": phase, "seconds": round(seconds, 3)}})
