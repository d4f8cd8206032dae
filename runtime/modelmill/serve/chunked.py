"""A body whose length is not known, on a connection of HTTP/1.1: in chunks (RFC 9112, section 7.1), each as it comes.

A client of HTTP/1.0 knows no chunks: its body ends with the connection.
"""

from http import HTTPStatus
from typing import TYPE_CHECKING

from modelmill.serve.http import Response

if TYPE_CHECKING:
    from modelmill.serve.connection import Connection

LAST = b"0\r\n\r\n"


class Chunked:
    """What the connection has pending until the body has ended."""

    def __init__(self, connection: "Connection", response: Response, *, framed: bool) -> None:
        assert response.flow
        self._connection = connection
        self._response = response
        self._framed = framed
        self.pause, self.resume, self.cancel = response.flow.pause, response.flow.resume, response.flow.cancel

    def begin(self, *, close: bool) -> None:
        response = self._response
        head = f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\nContent-Type: {response.content_type}\r\n"
        head += "Transfer-Encoding: chunked\r\n" if self._framed else ""
        head += "".join(f"{name}: {value}\r\n" for name, value in response.headers)
        self._connection.transport.write((head + ("Connection: close\r\n\r\n" if close else "\r\n")).encode("latin-1"))
        assert response.flow
        response.flow.into(self)

    def piece(self, data: bytes) -> None:
        self._connection.transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._framed else data)

    def finish(self, *, whole: bool) -> None:
        if not whole:
            self._connection.cut()
            return
        if self._framed:
            self._connection.transport.write(LAST)
        self._connection.flowed(close=not self._framed)
