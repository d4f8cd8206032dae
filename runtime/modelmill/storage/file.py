"""A store on a mounted volume.

Files are written beside their place under a hidden name, flushed to the disk and then renamed (or linked, for a
conditional create: `link` fails when the name is taken, which holds on local disks and on NFS). A replacement with a
precondition takes a lock beside the file; the kernel frees it when its holder dies.
"""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from modelmill.storage.backend import Found
from modelmill.storage.errors import AccessDenied, AlreadyExists, Conflict, NoSpace, NotFound, StorageError

_HIDDEN = ".modelmill-"


class FileStore:
    def open_read(self, url: str) -> BinaryIO:
        with _explained(url):
            return _path(url).open("rb")

    def write_bytes(self, url: str, data: bytes) -> None:
        with _explained(url), _beside(_path(url)) as temporary:
            _fill(temporary, data)
            temporary.replace(_path(url))

    def create_bytes(self, url: str, data: bytes) -> None:
        with _explained(url), _beside(_path(url)) as temporary:
            _fill(temporary, data)
            os.link(temporary, _path(url))

    def replace_bytes(self, url: str, data: bytes, *, expected: bytes | None) -> None:
        with _explained(url), _lock(_path(url)):
            current = _path(url).read_bytes() if _path(url).is_file() else None
            if current != expected:
                raise Conflict(f"{url}: somebody else changed it meanwhile; read it again and decide anew")
            self.write_bytes(url, data)

    def size(self, url: str) -> int | None:
        with _explained(url):
            try:
                return _path(url).stat().st_size if not _path(url).is_dir() else None
            except (FileNotFoundError, NotADirectoryError):
                return None

    def children(self, url: str) -> list[str]:
        with _explained(url):
            try:
                return sorted(entry.name for entry in _path(url).iterdir() if not entry.name.startswith(_HIDDEN))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def files(self, url: str) -> list[Found]:
        found = []
        with _explained(url):
            for folder, _, names in os.walk(_path(url)):
                for name in (Path(folder, name) for name in names if not name.startswith(_HIDDEN)):
                    try:
                        status = name.stat()
                    except FileNotFoundError:  # removed since it was listed
                        continue
                    path = name.relative_to(_path(url)).as_posix()
                    found.append(Found(path=path, bytes=status.st_size, modified=status.st_mtime))
        return sorted(found, key=lambda file: file.path)

    def remove(self, url: str) -> None:
        with _explained(url):
            _path(url).unlink(missing_ok=True)

    def remove_tree(self, url: str) -> None:
        with _explained(url):
            try:
                shutil.rmtree(_path(url))
            except FileNotFoundError:
                pass

    def upload(self, path: Path, url: str) -> None:
        with _explained(url), _beside(_path(url)) as temporary:
            shutil.copyfile(path, temporary)
            _flush(temporary)
            temporary.replace(_path(url))

    def download(self, url: str, path: Path) -> None:
        with _explained(url):
            shutil.copyfile(_path(url), path)

    def copy(self, source: str, target: str) -> None:
        with _explained(source), _path(source).open("rb"):
            pass  # a missing source is told as such, not as a missing target
        self.upload(_path(source), target)


def _path(url: str) -> Path:
    return Path(url.removeprefix("file://"))


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A hidden name in the same folder; whatever is left under it goes away, and the folder's entries reach the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{_HIDDEN}{uuid.uuid4().hex}"
    try:
        yield temporary
        temporary.unlink(missing_ok=True)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f"{_HIDDEN}{path.name}.lock").open("wb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fill(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turns the operating system's errors into ours."""
    try:
        yield
    except StorageError:
        raise
    except FileExistsError as error:
        raise AlreadyExists(f"{url}: already exists") from error
    except FileNotFoundError as error:
        raise NotFound(f"{url}: there is no such file; check the path, and that the volume is mounted") from error
    except PermissionError as error:
        raise AccessDenied(
            f"{url}: access denied for user {os.getuid()}, group {os.getgid()}; check the volume's owner and fsGroup"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{url}: no space left; enlarge the volume or remove old versions and workspaces") from error
        if error.errno == errno.EROFS:
            raise AccessDenied(f"{url}: the volume is mounted read-only") from error
        raise StorageError(f"{url}: {error.strerror or error}") from error
