"""The one door to the model that every protocol uses, and what the pod knows about its model.

Protocols decode a request into arrays, pass here, and encode what comes back. Whether a name, a version or the moment
is right is decided here, once, in the same words for all.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelmill.contract.servicefile import ServiceFile
from modelmill.datatypes import Array
from modelmill.serve.batcher import Batcher, Call
from modelmill.serve.errors import NotFound, NotReady, Refusal
from modelmill.serve.http import Response
from modelmill.serve.options import DEFAULT, Options
from modelmill.serve.rows import Rows
from modelmill.serve.shapes import Shapes
from modelmill.signature import Signature, Tensor


class Phase(enum.Enum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


@dataclass(slots=True)
class Ask:
    """A decoded request for the model, and how its answer is written."""

    rows: Rows
    encode: Callable[[Rows], Response]
    options: Options = DEFAULT


class Inference:
    def __init__(self, service: ServiceFile) -> None:
        self.model = service.model
        self.version = str(service.version)
        self.phase = Phase.LOADING
        self._signature: Signature | None = None
        self._shapes: Shapes | None = None
        self.inputs: Mapping[str, Tensor] = {}
        """By name, once loaded."""
        self.outputs: Mapping[str, Tensor] = {}
        self._batcher: Batcher | None = None

    def open(self, batcher: Batcher, *, signature: Signature) -> None:
        """The model is loaded and warm: from now on requests are answered."""
        self._batcher, self._signature, self._shapes = batcher, signature, Shapes(signature)
        self.inputs = {tensor.name: tensor for tensor in signature.inputs}
        self.outputs = {tensor.name: tensor for tensor in signature.outputs}
        if self.phase is Phase.LOADING:
            self.phase = Phase.READY

    @property
    def loaded(self) -> bool:
        """True also while draining: requests that still arrive are answered."""
        return self._batcher is not None

    def require(self, model: str, version: str | None = None) -> None:
        """Raises unless this model in this version is loaded."""
        self.find(model, version)
        if self._batcher is None:
            raise NotReady(f"model {self.model!r} is not ready: it is still loading")

    def find(self, model: str, version: str | None = None) -> None:
        """Raises unless this is the model and the version that this pod serves."""
        if model != self.model:
            raise NotFound(f"model {model!r} does not exist here; this endpoint serves {self.model!r}")
        if version not in (None, self.version):
            raise NotFound(f"model {model!r} has no version {version!r} here; this pod serves version {self.version}")

    @property
    def signature(self) -> Signature:
        if self._signature is None:
            raise NotReady(f"model {self.model!r} is not ready: it is still loading")
        return self._signature

    def rows(self, arrays: Mapping[str, Array]) -> Rows:
        """The model's inputs, checked; every array already has its declared datatype."""
        if self._shapes is None:
            raise NotReady(f"model {self.model!r} is not ready: it is still loading")
        return self._shapes.checked(arrays)

    def submit(self, rows: Rows, *, options: Options = DEFAULT, done: Callable[[Rows | Refusal], None]) -> Call:
        """Queues the request; `done` is called once in a later turn of the loop, unless the call is cancelled first."""
        if self._batcher is None:
            raise NotReady(f"model {self.model!r} is not ready: it is still loading")
        return self._batcher.submit(rows, options=options, done=done)
