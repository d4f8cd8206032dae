"""The synchronous client."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from modelmill.client import transport
from modelmill.client.exchange import Exchange, Flow, NoReply, Reply, T
from modelmill.client.metadata import ModelMetadata, ServerMetadata
from modelmill.client.session import Session
from modelmill.client.spares import Spares
from modelmill.datatypes import Array


class Client:
    """A client of any server that speaks the Open Inference Protocol v2 over HTTP; threads may share it.

    `url` is the server's root. `api_key` goes out as `Authorization: Bearer`. `timeout` is in seconds and covers a whole
    call with its retries. `ca` is a PEM file with the authorities to trust instead of the system's. `retries` is how often
    a call is tried again when the server has certainly not computed it (no connection, 503, 429; Retry-After is honoured).

    Every method raises ClientError: Unavailable, TimedOut, ConnectionLost, InferenceError, BadAnswer.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 30.0, ca: str | Path | None = None, retries: int = 3
    ) -> None:
        root = transport.checked(url)
        self._session = Session(root, timeout=timeout, retries=retries)
        options = transport.options(root, api_key=api_key, ca=ca)
        self._spares = Spares(lambda: httpx.Client(**options))

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str | int | None = None,
        outputs: Sequence[str] | None = None,
        binary: bool = True,
        priority: int = 0,
        timeout: float | None = None,
    ) -> dict[str, Array]:
        """The model's outputs by name, all of them unless `outputs` names some; arrays of their own, writable.

        `inputs` are numpy arrays whose dtypes are the model's datatypes; nothing is cast, with one exception: floats for an
        input that the model declares as BF16 are rounded to it. BF16 outputs come back as float32, BYTES as objects (bytes).
        `binary` sends raw tensors where the server lists the extension `binary_tensor_data` (asked for once), else JSON.
        `priority`: 1 is the highest, 0 the server's default. `timeout` in seconds is this call's own; the server is told it.
        """
        flow = self._session.infer(
            model, inputs, version=version, outputs=outputs, binary=binary, priority=priority, timeout=timeout
        )
        return self._run(flow)

    def metadata(self, model: str, *, version: str | int | None = None) -> ModelMetadata:
        """The model's versions, inputs and outputs."""
        return self._run(self._session.metadata(model, version=version))

    def server(self) -> ServerMetadata:
        """The server's name, version and extensions."""
        return self._run(self._session.server())

    def ready(self, model: str | None = None) -> bool:
        """Whether the server, or one model, answers inferences. Also False when nobody is there; asked once, never retried."""
        return self._run(self._session.ready(model))

    def live(self) -> bool:
        """Whether the server is up. Also False when nobody is there; asked once, never retried."""
        return self._run(self._session.live())

    def close(self) -> None:
        """Closes the connections."""
        for unused in self._spares.close():
            unused.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        exchange = next(flow)
        while True:
            try:
                exchange = flow.send(self._exchange(exchange))
            except StopIteration as done:
                result: T = done.value
                return result

    def _exchange(self, wanted: Exchange) -> Reply | NoReply:
        time.sleep(wanted.after)
        http = self._spares.take()
        try:
            answer = http.request(
                wanted.method, wanted.path, content=wanted.body or None, headers=wanted.headers, timeout=wanted.timeout
            )
        except httpx.TransportError as error:
            return transport.no_reply(error, timeout=wanted.timeout)
        finally:
            for old in self._spares.give_back(http):
                old.close()
        return transport.reply(answer)
