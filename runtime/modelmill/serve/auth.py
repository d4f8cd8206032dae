"""The API key: `Authorization: Bearer KEY` or `X-API-Key: KEY`, compared in constant time.

The key file (a mounted Secret) may hold several keys, one a line, so that keys can be rotated without a gap; it is
read again when it changes. A file that cannot be read for a moment keeps the last keys; an empty one refuses everybody.
"""

import hmac
import logging
import time
from pathlib import Path

from modelmill.serve.errors import Unauthorized
from modelmill.serve.http import Request

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0


class ApiKeys:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked = 0.0
        self._changed: tuple[int, int] | None = None
        self._keys: tuple[bytes, ...] = ()
        self.generation = 0
        """Another number for other keys."""
        self._read()

    def _read(self) -> None:
        state = self._path.stat()
        # A Secret's update swaps a symlink: the inode tells it even within the clock's resolution.
        if (changed := (state.st_mtime_ns, state.st_ino)) != self._changed:
            lines = self._path.read_bytes().splitlines()
            self._keys = tuple(line.strip() for line in lines if line.strip())
            self._changed = changed
            self.generation += 1

    def look(self) -> int:
        """Reads the file again when it is time; returns the generation."""
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            try:
                self._read()
            except OSError as error:
                log.warning("the API key file %s cannot be read, the last keys stay valid: %s", self._path, error)
        return self.generation

    def check(self, request: Request) -> None:
        self.look()
        given = _given(request)
        # All keys are compared, so that the time does not tell which one was nearly right.
        if given is None or not max([hmac.compare_digest(given, key) for key in self._keys], default=False):
            raise Unauthorized("send the API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")


def _given(request: Request) -> bytes | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip().encode("latin-1")
    key = request.headers.get("x-api-key")
    return key.strip().encode("latin-1") if key is not None else None
