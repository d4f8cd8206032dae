"""Both clients with one face: tests of what they share run against each."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from modelmill.client import AsyncClient, Client

Opener = Callable[..., Any]


class Awaited:
    """An AsyncClient whose methods wait."""

    def __init__(self, runner: asyncio.Runner, client: AsyncClient) -> None:
        self._runner = runner
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *given, **named: self._runner.run(method(*given, **named))


@contextmanager
def blocking(url: str, **options: Any) -> Iterator[Any]:
    with Client(url, **options) as client:
        yield client


@contextmanager
def awaited(url: str, **options: Any) -> Iterator[Any]:
    with asyncio.Runner() as runner:
        client = AsyncClient(url, **options)
        try:
            yield Awaited(runner, client)
        finally:
            runner.run(client.close())
