"""Storage on a mounted volume: whole files or none, one winner, errors that help."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelmill import storage


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


def test_of_many_writers_exactly_one_creates(url: str) -> None:
    def create(number: int) -> bool:
        try:
            storage.create_bytes(f"{url}/claim", str(number).encode())
        except storage.AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(create, range(64)))
    assert sum(won) == 1
    assert storage.read_bytes(f"{url}/claim") == str(won.index(True)).encode()


def test_a_replacement_needs_the_expected_content(url: str) -> None:
    storage.replace_bytes(f"{url}/c", b"1", expected=None)
    storage.replace_bytes(f"{url}/c", b"2", expected=b"1")
    for expected in (b"1", None):
        with pytest.raises(storage.Conflict, match="somebody else changed it"):
            storage.replace_bytes(f"{url}/c", b"3", expected=expected)
    assert storage.read_bytes(f"{url}/c") == b"2"


def test_concurrent_replacements_lose_no_increment(url: str) -> None:
    storage.write_bytes(f"{url}/n", b"0")

    def increment(_: int) -> None:
        while True:
            current = storage.read_bytes(f"{url}/n")
            try:
                storage.replace_bytes(f"{url}/n", str(int(current) + 1).encode(), expected=current)
            except storage.Conflict:
                continue
            return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(increment, range(40)))
    assert storage.read_bytes(f"{url}/n") == b"40"


def test_listings_show_what_was_written_and_nothing_hidden(url: str) -> None:
    for path in ("a/b.txt", "a/c/d.txt", "e.txt"):
        storage.write_bytes(storage.join(url, path), path.encode())
    storage.replace_bytes(f"{url}/e.txt", b"new", expected=b"e.txt")
    assert storage.children(url) == ["a", "e.txt"]
    assert [(file.path, file.bytes) for file in storage.files(url)] == [("a/b.txt", 7), ("a/c/d.txt", 9), ("e.txt", 3)]
    assert storage.children(f"{url}/missing") == [] == storage.files(f"{url}/missing")
    assert not storage.exists(f"{url}/a"), "a folder is no file"
    storage.remove_tree(f"{url}/a")
    storage.remove_tree(f"{url}/a")
    storage.remove(f"{url}/e.txt")
    storage.remove(f"{url}/e.txt")
    assert storage.children(url) == []


def test_files_are_copied_in_out_and_within(url: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"weights")
    storage.upload(source, f"{url}/x/weights")
    storage.copy(f"{url}/x/weights", f"{url}/y/weights")
    storage.download(f"{url}/y/weights", target)
    assert target.read_bytes() == b"weights"
    assert storage.size(f"{url}/y/weights") == 7
    assert storage.local_path(f"{url}/y/weights") == tmp_path / "store/y/weights"
    assert storage.local_path("s3://bucket/y") is None


def test_a_failed_write_leaves_neither_a_part_nor_rubbish(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(f"{url}/f", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(storage.NoSpace, match=r"store/f: no space left; enlarge the volume"):
        storage.write_bytes(f"{url}/f", b"new")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["f"]
    assert storage.read_bytes(f"{url}/f") == b"old"


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EACCES, storage.AccessDenied, "fsGroup"),
        (errno.EROFS, storage.AccessDenied, "mounted read-only"),
        (errno.EDQUOT, storage.NoSpace, "no space left"),
        (errno.EIO, storage.StorageError, "Input/output error"),
    ],
)
def test_errors_name_the_url_and_say_what_to_do(
    number: int, kind: type[Exception], words: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(kind, match=words) as caught:
        storage.read_bytes(f"{url}/x")
    assert f"{url}/x" in str(caught.value)


def test_what_is_not_there_is_told_as_such(url: str) -> None:
    for ask in (storage.read_bytes, storage.size):
        with pytest.raises(FileNotFoundError, match="store/x"):
            ask(f"{url}/x")
    with pytest.raises(storage.NotFound, match="store/x"):
        storage.copy(f"{url}/x", f"{url}/y")


@pytest.mark.parametrize("url", ["/data/registry", "gs://bucket/x", "file://data", ""])
def test_an_address_that_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(storage.StorageError, match="file:///"):
        storage.read_bytes(url)


@pytest.mark.parametrize("part", ["..", "a/../b", "", "/etc/passwd", "a//b", "."])
def test_nothing_leads_out_of_a_folder(part: str) -> None:
    with pytest.raises(ValueError, match="no path below"):
        storage.join("file:///data", part)
