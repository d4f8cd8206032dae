"""The identity of the held-out data: figures of two evaluations compare only when it is the same."""

import hashlib
import logging
from typing import BinaryIO

import fsspec

from modelmill import storage
from modelmill.evaluate.errors import TestDataNotFound

log = logging.getLogger(__name__)
CHUNK_BYTES = 4 << 20


def digest(uri: str) -> str | None:
    """sha256:<hex> of the file, or of the names and digests of all files of a folder. None: it cannot be read here."""
    scheme = uri.partition("://")[0]
    if scheme not in ("file", "s3"):
        return _foreign(uri)
    if storage.exists(uri):
        return f"sha256:{_file(uri)}"
    found = storage.files(uri)
    if not found:
        raise TestDataNotFound(f"data.test: there is nothing at {uri}; check the URI, and the volume or bucket behind it")
    whole = hashlib.sha256()
    for file in found:
        whole.update(f"{file.path}\0{_file(storage.join(uri, file.path))}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def _file(uri: str) -> str:
    with storage.open_read(uri) as stream:
        return _hex(stream)


def _foreign(uri: str) -> str | None:
    # The recipe may read what we cannot (a database, a service): then every comparison measures anew.
    try:
        with fsspec.open(uri, "rb") as stream:
            return f"sha256:{_hex(stream)}"
    except Exception as error:
        log.warning("data.test: no digest of %s: %s; earlier figures are not reused", uri, error)
        return None


def _hex(stream: BinaryIO) -> str:
    found = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        found.update(chunk)
    return found.hexdigest()
