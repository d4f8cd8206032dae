"""An answer from a coroutine, for the admin port: there a task for each request costs nothing that counts."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from modelmill.serve.http import Response


class Later:
    """A `Work` that has begun. The coroutine answers whatever happens: what it raises would be lost."""

    def __init__(self, work: Coroutine[Any, Any, Response]) -> None:
        self._task = asyncio.get_running_loop().create_task(work)

    def begin(self, door: object, request: object, *, protocol: str, began: float) -> "Later":
        return self

    def then(self, send: Callable[[Response], None]) -> None:
        self._task.add_done_callback(lambda task: None if task.cancelled() else send(task.result()))

    def cancel(self) -> None:
        self._task.cancel()
