# The interface of runtime/native/fastpath.
from collections.abc import Callable, Sequence

from modelmill.datatypes import Array
from modelmill.serve.http2.front import PlainFront as Front

__all__ = ["Batch", "Front", "Gate", "Slot", "frames"]

def frames(
    stream: int,
    headers: bytes | None,
    data: Sequence[bytes | memoryview],
    size: int,
    last: bool,
    trailers: bytes | None,
    /,
) -> bytes:
    """`joined_answer` of modelmill/serve/http2/frames.py."""

class Slot:
    """One request under way."""

    def cancel(self) -> None: ...

class Batch:
    """Requests that run together."""

    @property
    def inputs(self) -> tuple[bytearray, ...]:
        """The rows of each input, one below the other; there may be room behind them."""

    @property
    def rows(self) -> int: ...
    @property
    def requests(self) -> int:
        """Those included that were cancelled."""

    @property
    def path(self) -> str:
        """Of the first request."""

    @property
    def began(self) -> float:
        """When the first request was there."""

    def answer(self, outputs: list[Array], /) -> tuple[list[tuple[object, bytes]], tuple[int, ...], float, int, int]:
        """HTTP messages by owner; how many took how long, by `bounds`; the sum of their seconds; bytes received and sent.

        Raises ValueError when an output has not so many rows or another datatype.
        """

    def owners(self) -> list[tuple[object, float, int]]:
        """Who still waits: the owner, when the request was there, its bytes."""

    def split(self) -> list[Batch]:
        """A batch for each request that still waits."""

class Gate:
    """Reads requests into batches."""

    def __new__(
        cls,
        *,
        inputs: list[tuple[str, str, tuple[int, ...]]],
        outputs: list[tuple[str, str]],
        opening: str,
        rows: int,
        message_bytes: int,
        bounds: tuple[float, ...],
        scratch: memoryview,
        opened: Callable[[], int],
    ) -> Gate:
        """`inputs`: name, datatype and shape without the batch. `outputs`: the JSON before its shape, and the datatype.

        `opening`: the answer's JSON before id and outputs. `rows`: at most in a batch. `scratch`: where messages are
        received. `opened`: called for each batch that is begun; says how many more requests may wait.
        Raises ValueError where datatypes or shapes have no fast path.
        """

    def take(self, owner: object, nbytes: int, /) -> Slot | None:
        """The request in the first `nbytes` of the scratch memory; None when it is not one for the fast path."""

    def seal(self) -> list[Batch]:
        """The batches that were filled since."""

    def learn(self, message: bytes, path: str, /) -> None:
        """The head of this message, with any length of the body, means an inference request to `path`."""

    def forget(self) -> None:
        """Nothing is known about any head any more."""
