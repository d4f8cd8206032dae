"""What a client does, without doing it: each call is a generator that yields exchanges and is sent their outcomes.

`Client` and `AsyncClient` differ only in how they wait, so all rules are here, once: what is learned about the server,
what is tried again and when, and which error an outcome becomes.

Tried again is what the server has certainly not computed (no connection, 503, 429) and what only reads. An inference
whose connection broke after it was sent is not: models may be expensive, and may count.
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

from modelmill.client import codec, metadata
from modelmill.client.errors import BadAnswer, ClientError, ConnectionLost, InferenceError, TimedOut, Unavailable
from modelmill.client.exchange import Exchange, Flow, Loss, NoReply, Reply, message, retry_after
from modelmill.client.metadata import ModelMetadata, ServerMetadata
from modelmill.datatypes import Array

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
_chance = random.Random()
"""Not the module's own, which programs seed and expect to themselves."""
_NO_ROOM = (429, 503)
_NOT_OFFERED = (404, 405, 501)
_NOT_ALLOWED = (401, 403)


class Session:
    def __init__(self, url: str, *, timeout: float, retries: int) -> None:
        _deadline(timeout)  # refuses one that is none
        if retries < 0:
            raise ValueError(f"retries {retries!r} must be 0 or more")
        self._url = url
        self._timeout = timeout
        self._retries = retries
        self._server: ServerMetadata | None = None
        self._declared: dict[str, dict[str, str]] = {}

    def live(self) -> Flow[bool]:
        return self._probe("/v2/health/live")

    def ready(self, model: str | None) -> Flow[bool]:
        return self._probe("/v2/health/ready" if model is None else f"{_path(model, None)}/ready")

    def server(self) -> Flow[ServerMetadata]:
        return self._server_metadata(_deadline(self._timeout))

    def metadata(self, model: str, *, version: str | int | None) -> Flow[ModelMetadata]:
        return self._model_metadata(_path(model, version), _deadline(self._timeout))

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str | int | None,
        outputs: Sequence[str] | None,
        binary: bool,
        priority: int,
        timeout: float | None,
    ) -> Flow[dict[str, Array]]:
        path = _path(model, version)
        parameters = _parameters(priority=priority, timeout=timeout)
        deadline = _deadline(self._timeout if timeout is None else timeout)
        as_bytes = binary and (yield from self._has_binary_tensors(deadline))
        declared = (yield from self._datatypes(path, deadline)) if _has_floats(inputs) else {}
        encoded = codec.encode(inputs, declared=declared, outputs=outputs, binary=as_bytes, parameters=parameters)
        exchange = Exchange(method="POST", path=f"{path}/infer", body=encoded.body, headers=encoded.headers)
        try:
            reply = yield from self._sent(exchange, deadline)
        except InferenceError:
            # Perhaps another version is served by now, which declares other datatypes: the next call asks again.
            self._declared.pop(path, None)
            raise
        return codec.decode(reply.body, header_length=reply.headers.get(codec.HEADER_LENGTH.lower()))

    def _server_metadata(self, deadline: float) -> Flow[ServerMetadata]:
        reply = yield from self._sent(Exchange(method="GET", path="/v2"), deadline)
        return metadata.server(reply.body)

    def _model_metadata(self, path: str, deadline: float) -> Flow[ModelMetadata]:
        reply = yield from self._sent(Exchange(method="GET", path=path), deadline)
        return metadata.model(reply.body)

    def _has_binary_tensors(self, deadline: float) -> Flow[bool]:
        if self._server is None:
            try:
                self._server = yield from self._server_metadata(deadline)
            except InferenceError as error:
                if error.status not in _NOT_OFFERED:
                    raise
                self._server = ServerMetadata(name="", version="", extensions=())
        return codec.BINARY_EXTENSION in self._server.extensions

    def _datatypes(self, path: str, deadline: float) -> Flow[dict[str, str]]:
        """The datatypes of the model's inputs, asked for once; none when the server does not tell them."""
        if path not in self._declared:
            try:
                model = yield from self._model_metadata(path, deadline)
                self._declared[path] = {tensor.name: tensor.datatype for tensor in model.inputs}
            except (InferenceError, BadAnswer):
                self._declared[path] = {}
        return self._declared[path]

    def _probe(self, path: str) -> Flow[bool]:
        """Whether the answer is 200, without a second try; a key that is not accepted says nothing about health."""
        outcome = yield Exchange(method="GET", path=path, timeout=self._timeout)
        if isinstance(outcome, Reply) and outcome.status in _NOT_ALLOWED:
            raise self._error(outcome)
        if isinstance(outcome, NoReply) and outcome.loss is Loss.UNTRUSTED:
            raise self._error(outcome)
        return isinstance(outcome, Reply) and outcome.status == 200

    def _sent(self, exchange: Exchange, deadline: float) -> Flow[Reply]:
        """The reply, if it is a success; all tries and the pauses between them end by the deadline."""
        tries, pause = 0, 0.0
        while True:
            outcome = yield replace(exchange, after=pause, timeout=_left(deadline - pause))
            if isinstance(outcome, Reply) and 200 <= outcome.status < 300:
                return outcome
            tries += 1
            pause = _pause(tries, outcome)
            can_help = tries <= self._retries and _may_repeat(exchange, outcome)
            if not can_help or time.monotonic() + pause >= deadline:
                raise self._error(outcome)

    def _error(self, outcome: Reply | NoReply) -> ClientError:
        if isinstance(outcome, NoReply):
            kind = {Loss.TIMED_OUT: TimedOut, Loss.BROKEN: ConnectionLost}.get(outcome.loss, Unavailable)
            return kind(f"{self._url}: {outcome.text}")
        text = message(outcome)
        if outcome.status in _NO_ROOM:
            told = f"{self._url}: {outcome.status}: {text}"
            return Unavailable(told, status=outcome.status, retry_after=retry_after(outcome))
        if outcome.status == 504:
            return TimedOut(f"{self._url}: 504: {text}")
        return InferenceError(outcome.status, text)


def _deadline(timeout: float) -> float:
    if not timeout > 0:
        raise ValueError(f"timeout {timeout!r} must be more than 0 seconds")
    return time.monotonic() + timeout


def _left(deadline: float) -> float:
    """Never 0, which would mean no timeout to some."""
    return max(deadline - time.monotonic(), 0.001)


def _parameters(*, priority: int, timeout: float | None) -> dict[str, int]:
    """Triton's names and units (extension `schedule_policy`); a server that does not know them ignores them."""
    if priority < 0:
        raise ValueError(f"priority {priority!r} must be 0 (the server's default) or more; 1 is the highest")
    return {
        **({"priority": priority} if priority else {}),
        **({} if timeout is None else {"timeout": round(timeout * 1e6)}),
    }


def _path(model: str, version: str | int | None) -> str:
    if not model:
        raise ValueError("model is empty: give the model's name")
    of_version = "" if version is None else f"/versions/{quote(str(version), safe='')}"
    return f"/v2/models/{quote(model, safe='')}{of_version}"


def _has_floats(inputs: Mapping[str, Array]) -> bool:
    """Only floats may have to be rounded to a BF16 that the model declares."""
    return any(getattr(array, "dtype", None) is not None and array.dtype.kind == "f" for array in inputs.values())


def _may_repeat(exchange: Exchange, outcome: Reply | NoReply) -> bool:
    if isinstance(outcome, Reply):
        return outcome.status in _NO_ROOM
    return outcome.loss is Loss.NEVER_SENT or (outcome.loss is Loss.BROKEN and exchange.method == "GET")


def _pause(tries: int, outcome: Reply | NoReply) -> float:
    """Doubles with each try; random, so that clients that were refused together do not come back together."""
    backoff = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** (tries - 1)) * _chance.uniform(0.5, 1.0)
    asked = retry_after(outcome) if isinstance(outcome, Reply) else None
    return max(backoff, asked or 0.0)
