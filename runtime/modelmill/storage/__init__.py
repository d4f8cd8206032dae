"""Bytes under a URL: `file:///path` on a volume, or `s3://bucket/prefix`.

Every write is atomic: a reader sees the old content, the new one or nothing, never a part. Two more promises hold up
the registry: `create_bytes` lets exactly one of many writers succeed, and `replace_bytes` succeeds only when nobody
changed the content in between. Transient failures of a server are retried with back-off here, so a `StorageError`
that comes out is worth telling to a person. Credentials for S3 come from the environment (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, AWS_REGION).
"""

from pathlib import Path
from typing import BinaryIO

from modelmill.storage.backend import Backend, Found
from modelmill.storage.errors import AccessDenied, AlreadyExists, BucketNotFound, Conflict, NoSpace, NotFound, StorageError

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "BucketNotFound",
    "Conflict",
    "Found",
    "NoSpace",
    "NotFound",
    "StorageError",
    "children",
    "copy",
    "create_bytes",
    "download",
    "exists",
    "files",
    "join",
    "local_path",
    "open_read",
    "read_bytes",
    "remove",
    "remove_tree",
    "replace_bytes",
    "size",
    "upload",
    "write_bytes",
]


def join(url: str, *parts: str) -> str:
    """The URL of something below `url`; parts may hold `/` but never lead upwards."""
    names = [name for part in parts for name in part.split("/")]
    for name in names:
        if name in ("", ".", ".."):
            raise ValueError(f"{'/'.join(parts)!r} is no path below {url}: it holds an empty part, '.' or '..'")
    return "/".join([url.rstrip("/"), *names])


def read_bytes(url: str) -> bytes:
    with open_read(url) as stream:
        return stream.read()


def open_read(url: str) -> BinaryIO:
    """A binary stream that can seek; close it."""
    return _backend(url).open_read(url)


def write_bytes(url: str, data: bytes) -> None:
    """Writes or overwrites."""
    _backend(url).write_bytes(url, data)


def create_bytes(url: str, data: bytes) -> None:
    """Writes only where nothing is; otherwise `AlreadyExists`, for all but one of many writers."""
    _backend(url).create_bytes(url, data)


def replace_bytes(url: str, data: bytes, *, expected: bytes | None) -> None:
    """Writes only while the content is `expected` (None: nothing there); otherwise `Conflict`."""
    _backend(url).replace_bytes(url, data, expected=expected)


def exists(url: str) -> bool:
    """Whether there is a file (an object) at the URL; folders do not count."""
    return _backend(url).size(url) is not None


def size(url: str) -> int:
    """Bytes of the file at the URL."""
    found = _backend(url).size(url)
    if found is None:
        raise NotFound(f"{url}: there is nothing")
    return found


def children(url: str) -> list[str]:
    """Names directly below a folder, sorted; none when it is not there."""
    return _backend(url).children(url)


def files(url: str) -> list[Found]:
    """All files below a folder, sorted by path; none when it is not there."""
    return _backend(url).files(url)


def remove(url: str) -> None:
    """Removes a file; fine when it is gone already."""
    _backend(url).remove(url)


def remove_tree(url: str) -> None:
    """Removes all files below a folder; fine when it is gone already."""
    _backend(url).remove_tree(url)


def upload(path: Path, url: str) -> None:
    """Copies a local file to the URL, atomically."""
    _backend(url).upload(path, url)


def download(url: str, path: Path) -> None:
    """Copies what is at the URL to a local file, whose folder must exist."""
    _backend(url).download(url, path)


def copy(source: str, target: str) -> None:
    """Copies within one store, without a detour over this machine where the store can."""
    backend = _backend(source)
    if backend is not _backend(target):
        raise ValueError(f"cannot copy {source} to {target}: they are different stores")
    backend.copy(source, target)


def local_path(url: str) -> Path | None:
    """Where the file can be opened (or mapped) directly; None for a remote store."""
    return Path(url.removeprefix("file://")) if url.startswith("file://") else None


_backends: dict[str, Backend] = {}


def _backend(url: str) -> Backend:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("file", "s3"):
        raise StorageError(f"{url!r} is no URL of a store: write file:///path or s3://bucket/prefix")
    if scheme == "file" and not rest.startswith("/"):
        raise StorageError(f"{url!r}: a file URL needs three slashes and an absolute path, as in file:///data/registry")
    if scheme not in _backends:
        # Imported on demand: most pods need one of the two, and the S3 client costs a second.
        if scheme == "s3":
            from modelmill.storage.s3 import S3Store

            _backends[scheme] = S3Store()
        else:
            from modelmill.storage.file import FileStore

            _backends[scheme] = FileStore()
    return _backends[scheme]
