"""A request's headers from their compressed block, checked. Most requests of a connection repeat the last one's block."""

import re
from collections.abc import Iterable, Mapping

from modelmill.serve.http2.hpack import Decoder, Field

Headers = Mapping[str, str]
MAX_KNOWN = 64
PSEUDO = frozenset({":method", ":scheme", ":authority", ":path"})
NEEDED = (":method", ":scheme", ":path")
FORBIDDEN = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
BREAKS = re.compile("[\0\r\n]")
"""What no value may contain (RFC 9113, section 8.2.1): over HTTP/1.1 it would end the field."""


class HeaderReader:
    def __init__(self, *, max_bytes: int) -> None:
        self._decoder = Decoder(max_bytes=max_bytes)
        self.known: dict[bytes, Headers | None] = {}
        """What the same bytes meant before, and still do."""

    def read(self, block: bytes) -> Headers | None:
        """None: the request is malformed."""
        if block in self.known:
            return self.known[block]
        before = self._decoder.changes
        headers = request_headers(self._decoder.decode(block))
        if self._decoder.changes != before:
            # The same bytes mean something else from now on.
            self.known.clear()
        elif len(self.known) < MAX_KNOWN:
            self.known[block] = headers
        return headers


def request_headers(fields: Iterable[Field]) -> Headers | None:
    headers: dict[str, str] = {}
    regular = False
    for name, value in fields:
        if BREAKS.search(value):
            return None
        if name.startswith(":"):
            if regular or name in headers or name not in PSEUDO:
                return None
        else:
            regular = True
            if not name or name != name.lower() or name in FORBIDDEN or (name == "te" and value != "trailers"):
                return None
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers if all(headers.get(name) for name in NEEDED) else None
