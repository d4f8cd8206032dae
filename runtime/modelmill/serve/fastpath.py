"""The fast path: the usual JSON request for a short model, read, batched and answered in native code.

Of what a small model's request costs, most is Python between the socket and the model: objects for the request, its head,
its exchange, its rows, its place in the queue. The native module reads a request's numbers straight into the batch that is
being filled and writes all answers of a batch at once; Python sees batches, not requests. Whatever is not the usual request
goes the way of all others, which says what is wrong with it: any request may go there, and no client can tell but by the
clock. Only heads that the parser has read once are known here, of requests that the door let in.

It is taken while batches run in the event loop (`modelmill.serve.placement`), so that what is gathered runs in the same
turn of the loop, or the next ones. A batch is one call to the batcher, with as many requests as it holds.
"""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import orjson

from modelmill.datatypes import NUMPY, Array
from modelmill.observe.metrics import SECONDS
from modelmill.serve import encoding
from modelmill.serve.batcher import Batcher
from modelmill.serve.errors import BadRequest, ModelFailed, Refusal
from modelmill.serve.heads import UNLIKE
from modelmill.serve.http import Request, Response
from modelmill.serve.native import fastpath as _fastpath
from modelmill.serve.protocols import oip_binary
from modelmill.serve.rows import Rows
from modelmill.signature import Signature, Tensor

if TYPE_CHECKING:
    from modelmill.serve.frontdoor import FrontDoor

log = logging.getLogger(__name__)
MOST_BYTES = 16 << 10
"""Of a message: larger ones do not arrive in one piece."""
NUMBER_BYTES = 26
"""The longest number and a comma."""
UNUSUAL = UNLIKE | {"upgrade", "content-encoding", oip_binary.FIELD}
"""Header fields that make something else of a request."""
PROTOCOL = "v2"


class Owner(Protocol):
    """A connection, as the fast path sees it."""

    def send_message(self, message: bytes) -> None: ...
    def send_response(self, response: Response) -> None: ...


class FastPath:
    def __init__(
        self, door: "FrontDoor", batcher: Batcher, signature: Signature, *, scratch: memoryview, most_body_bytes: int
    ) -> None:
        """Raises ValueError where there is none for such a model; `scratch` is where messages are received."""
        if _fastpath is None:
            raise ValueError("the native module is not there: the package was built without a compiler")
        if batcher.policy.max_items:
            raise ValueError("the number of requests in a batch is limited")
        if 2 * sum(map(_elements, signature.inputs)) > MOST_BYTES:
            raise ValueError("a row does not fit into a small message")
        self._door = door
        self._batcher = batcher
        self._signature = signature
        inference = door.inference
        base = f"/v2/models/{inference.model}"
        self._paths = {f"{base}/infer", f"{base}/versions/{inference.version}/infer"}
        fields = {"model_name": inference.model, "model_version": inference.version}
        self._gate = _fastpath.Gate(
            inputs=[(tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in signature.inputs],
            outputs=[(_opening(tensor), tensor.datatype) for tensor in signature.outputs],
            opening=orjson.dumps(fields)[:-1].decode(),
            rows=batcher.policy.max_rows,
            message_bytes=min(MOST_BYTES, most_body_bytes),
            bounds=SECONDS,
            scratch=scratch,
            opened=self._opened,
        )
        self._compressible = _most_bytes(signature.outputs, batcher.policy.max_rows) >= encoding.LEAST_BYTES
        self._keys = door.keys.generation if door.keys else 0
        batcher.gather = self._gather
        self.take = self._gate.take

    def learn(self, message: bytes, request: Request) -> None:
        """`message` is a whole request that keeps its connection open; `request` is what the parser made of it."""
        if request.method != "POST" or request.path not in self._paths or not UNUSUAL.isdisjoint(request.headers):
            return
        if self._compressible and "accept-encoding" in request.headers:
            return
        if len(message) <= MOST_BYTES and self._door.lets_in(request):
            self._gate.learn(message, request.path)

    def _opened(self) -> int:
        keys = self._door.keys
        if keys and keys.look() != self._keys:
            self._keys = keys.generation
            self._gate.forget()
            return 0
        return self._batcher.room()

    def _gather(self) -> None:
        for batch in self._gate.seal():
            self._door.concurrency.enter(batch.requests)
            self._submit(batch)

    def _submit(self, batch: "_fastpath.Batch") -> None:
        try:
            arrays = {
                tensor.name: np.frombuffer(memory, NUMPY[tensor.datatype], batch.rows * _elements(tensor)).reshape(
                    batch.rows, *tensor.shape[1:]
                )
                for tensor, memory in zip(self._signature.inputs, batch.inputs, strict=True)
            }
            self._batcher.submit(Rows(arrays, batch.rows), done=partial(self._done, batch), requests=batch.requests)
        except Refusal as error:
            self._done(batch, error)

    def _done(self, batch: "_fastpath.Batch", outcome: Rows | Refusal) -> None:
        if isinstance(outcome, BadRequest | ModelFailed) and batch.requests > 1:
            self._run_alone(batch)
            return
        self._door.concurrency.leave(batch.requests)
        if isinstance(outcome, Refusal):
            self._refuse(batch, outcome)
            return
        try:
            self._answer(batch, outcome)
        except Exception as error:
            self._refuse(batch, error)

    def _run_alone(self, batch: "_fastpath.Batch") -> None:
        """Each for itself: only the culprit's client shall see the failure."""
        each = batch.split()
        self._door.concurrency.leave(batch.requests - len(each))
        for alone in each:
            self._submit(alone)

    def _answer(self, batch: "_fastpath.Batch", rows: Rows) -> None:
        arrays: list[Array] = [
            np.ascontiguousarray(rows.arrays[tensor.name], NUMPY[tensor.datatype]) for tensor in self._signature.outputs
        ]
        answers, counts, seconds, received, sent = batch.answer(arrays)
        if answers:
            self._door.count_batch(PROTOCOL, counts, seconds, received, sent, path=batch.path, began=batch.began)
        for owner, message in answers:
            cast(Owner, owner).send_message(message)

    def _refuse(self, batch: "_fastpath.Batch", error: Exception) -> None:
        for owner, began, received in batch.owners():
            response = self._door.refuse(error, protocol=PROTOCOL, path=batch.path, began=began, received=received)
            cast(Owner, owner).send_response(response)


def fast_path(make: Callable[[], FastPath]) -> FastPath | None:
    """The fast path, or the reason for having none in the log."""
    try:
        return make()
    except ValueError as reason:
        log.info("no fast path for JSON: %s", reason)
        return None


def _opening(tensor: Tensor) -> str:
    return orjson.dumps({"name": tensor.name, "datatype": tensor.datatype})[:-1].decode() + ',"shape":['


def _elements(tensor: Tensor) -> int:
    return math.prod(tensor.shape[1:])


def _most_bytes(outputs: tuple[Tensor, ...], rows: int) -> int:
    if any(-1 in tensor.shape[1:] for tensor in outputs):
        return encoding.LEAST_BYTES
    return sum(rows * _elements(tensor) * NUMBER_BYTES + 256 for tensor in outputs)
