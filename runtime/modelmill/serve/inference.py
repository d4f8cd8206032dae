"""The one door to the model that every protocol uses, and what the pod knows about its model.

Protocols decode a request into arrays, pass here, and encode what comes back. Whether a name, a version or the moment
is right is decided here, once, in the same words for all.
"""

import enum
from collections.abc import Mapping

from modelmill.contract.servicefile import ServiceFile
from modelmill.serve.batcher import Batcher
from modelmill.serve.datatypes import Array
from modelmill.serve.errors import NotFound, NotReady
from modelmill.serve.rows import Rows, checked
from modelmill.signature import Signature


class Phase(enum.Enum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class Inference:
    def __init__(self, service: ServiceFile) -> None:
        self.model = service.model
        self.version = str(service.version)
        self.phase = Phase.LOADING
        self._signature: Signature | None = None
        self._batcher: Batcher | None = None

    def open(self, batcher: Batcher, *, signature: Signature) -> None:
        """The model is loaded and warm: from now on requests are answered."""
        self._batcher, self._signature = batcher, signature
        if self.phase is Phase.LOADING:
            self.phase = Phase.READY

    @property
    def loaded(self) -> bool:
        """True also while draining: requests that still arrive are answered."""
        return self._batcher is not None

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

    async def infer(self, arrays: Mapping[str, Array]) -> Rows:
        if self._batcher is None:
            raise NotReady(f"model {self.model!r} is not ready: it is still loading")
        return await self._batcher.run(checked(self.signature.inputs, arrays))
