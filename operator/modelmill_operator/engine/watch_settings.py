"""kopf tuned for watching alone: to survive what an API server does while it restarts, and to cost as little as it can.

The reasons are measured: which errors end kopf, and that most of its time for an event goes into copying the object for a
comparison with the state before, which only handlers of other kinds than ours would look at.
"""

import random
from collections.abc import Iterator
from typing import Any

import kopf

from modelmill_operator.engine.kinds import WATCHED
from modelmill_operator.settings import Settings


class EndlessBackoff:
    """Pauses between kopf's attempts at one request: kopf gives up, and ends, when these do."""

    def __iter__(self) -> Iterator[float]:
        delay = 1.0
        while True:
            yield delay * random.uniform(0.8, 1.2)
            delay = min(30.0, delay * 1.6)


class NoStateBefore(kopf.DiffBaseStorage):
    """Keeps no state and compares none."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class NoProgress(kopf.ProgressStorage):
    """Keeps no progress: none of our handlers is ever tried again by kopf."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


def kopf_settings(settings: Settings) -> kopf.OperatorSettings:
    tuned = kopf.OperatorSettings()
    # Whole seconds: the API server refuses others.
    tuned.watching.server_timeout = round(settings.watch_timeout * random.uniform(0.9, 1.1))
    tuned.watching.client_timeout = tuned.watching.server_timeout + 10
    tuned.watching.connect_timeout = 10
    tuned.watching.reconnect_backoff = 1
    tuned.watching.chunk_size = 500
    for kind in WATCHED.values():
        if kind.selector:
            tuned.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.selector
    tuned.networking.connect_timeout = 10
    tuned.networking.request_timeout = settings.request_timeout
    tuned.networking.error_backoffs = EndlessBackoff()
    tuned.networking.enforce_retry_after = True
    tuned.queueing.idle_timeout = 1
    tuned.posting.enabled = False
    tuned.scanning.disabled = True
    tuned.persistence.diffbase_storage = NoStateBefore()
    tuned.persistence.progress_storage = NoProgress()
    # Never used, for nothing here makes kopf write; named after us so that a mistake would show whose it is.
    tuned.persistence.finalizer = "modelmill.io/never-set"
    tuned.process.ultimate_exiting_timeout = None
    return tuned
