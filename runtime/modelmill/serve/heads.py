"""Heads of requests seen before.

A client that keeps its connection sends the same head again and again: looking its bytes up costs a fraction of
parsing them. Equal bytes have equal meaning, so nothing is trusted that was not parsed once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from modelmill.serve.http import Request

MOST_HEADS = 256
"""Clients choose them: where there are more, all are forgotten and learnt anew."""
MOST_HEAD_BYTES = 2 << 10
MOST_BYTES = 16 << 10
"""Of a message that is looked up: larger ones do not arrive in one piece."""
END = b"\r\n\r\n"
UNLIKE = frozenset({"transfer-encoding", "expect"})
"""Header fields that make more of a message than a head and a body of known length."""


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    path: str
    headers: Mapping[str, str]
    length: int
    keep_alive: bool


class Heads:
    def __init__(self) -> None:
        self._known: dict[bytes, _Head] = {}

    def find(self, message: bytes) -> tuple[Request, bool] | None:
        """The request, and whether its connection stays open; None unless the message is exactly one with a known head."""
        end = message.find(END) + len(END)
        head = self._known.get(message[:end])
        if head is None or len(message) - end != head.length:
            return None
        return Request(head.method, head.path, head.headers, message[end:]), head.keep_alive

    def learn(self, message: bytes, request: Request, *, keep_alive: bool) -> None:
        """`request` is what the parser made of the message, of all of it."""
        end = message.find(END) + len(END)
        length = len(request.body)
        if end > MOST_HEAD_BYTES or len(message) - end != length or not UNLIKE.isdisjoint(request.headers):
            return
        if len(self._known) >= MOST_HEADS:
            self._known.clear()
        self._known[message[:end]] = _Head(request.method, request.path, request.headers, length, keep_alive)
