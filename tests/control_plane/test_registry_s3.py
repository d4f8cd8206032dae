"""The registry on a real S3 server: what the file store promises must hold there too."""

import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from modelmill import storage
from modelmill.artifact import publish, resolve, retention
from modelmill.artifact.errors import DigestMismatch
from modelmill.artifact.open import open_version
from modelmill.artifact.registry import Registry
from modelmill.contract.jobfile import JobFile, Resolve
from modelmill.storage.s3 import S3Store
from tests.cluster.s3 import S3, s3_server
from tests.ports import free_ports
from tests.unit.artifact.helpers import job_in, manifest_of, published, registry_at
from tests.unit.artifact.test_publish import Killed
from tests.unit.artifact.test_registry import CLAIM_MANY


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3_server() as s3, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        patch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
        yield s3


@pytest.fixture
def url(server: S3, request: pytest.FixtureRequest) -> str:
    return f"s3://{server.bucket}/{zlib.crc32(request.node.name.encode())}"


def test_conditional_writes_have_one_winner(url: str) -> None:
    storage.create_bytes(f"{url}/c", b"1")
    with pytest.raises(storage.AlreadyExists, match="already exists"):
        storage.create_bytes(f"{url}/c", b"1")
    storage.replace_bytes(f"{url}/c", b"2", expected=b"1")
    for expected in (b"1", None):
        with pytest.raises(storage.Conflict, match="somebody else changed it"):
            storage.replace_bytes(f"{url}/c", b"3", expected=expected)
    storage.replace_bytes(f"{url}/new", b"1", expected=None)
    assert storage.read_bytes(f"{url}/c") == b"2"


def test_a_conditional_write_whose_first_answer_was_lost_still_counts(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = S3Store._call

    def twice(self: S3Store, method: str, at: str, **arguments: Any) -> Any:
        if method == "put_object":
            call(self, method, at, **arguments)  # what a retry after a cut connection does
        return call(self, method, at, **arguments)

    monkeypatch.setattr(S3Store, "_call", twice)
    storage.create_bytes(f"{url}/c", b"1")
    storage.replace_bytes(f"{url}/c", b"2", expected=b"1")
    with pytest.raises(storage.AlreadyExists):
        storage.create_bytes(f"{url}/c", b"2")
    assert storage.read_bytes(f"{url}/c") == b"2"


class InFlight(Exception):
    """What AWS answers while another conditional write is being decided."""

    response: ClassVar = {"Error": {"Code": "ConditionalRequestConflict"}}


def test_a_conditional_write_that_met_another_in_flight_is_tried_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, refusals = S3Store._call, 2

    def refused(self: S3Store, method: str, at: str, **arguments: Any) -> Any:
        nonlocal refusals
        if method == "put_object" and refusals:
            refusals -= 1
            raise OSError("busy") from InFlight
        return call(self, method, at, **arguments)

    monkeypatch.setattr(S3Store, "_call", refused)
    storage.create_bytes(f"{url}/c", b"1")
    assert storage.read_bytes(f"{url}/c") == b"1"
    assert refusals == 0


def test_a_replacement_that_meets_a_change_between_read_and_write_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(f"{url}/c", b"1")
    put = S3Store._put

    def late(self: S3Store, at: str, data: bytes, **condition: str) -> bool:
        put(self, at, b"somebody else's")
        return put(self, at, data, **condition)

    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "_put", late)
        with pytest.raises(storage.Conflict):
            storage.replace_bytes(f"{url}/c", b"2", expected=b"1")
    assert storage.read_bytes(f"{url}/c") == b"somebody else's"


def test_listings_and_removal(url: str) -> None:
    for path in ("a/b.txt", "a/c/d.txt", "e.txt", "ab/x"):
        storage.write_bytes(storage.join(url, path), path.encode())
    assert storage.children(url) == ["a", "ab", "e.txt"]
    assert [(file.path, file.bytes) for file in storage.files(f"{url}/a")] == [("b.txt", 7), ("c/d.txt", 9)]
    assert abs(storage.files(f"{url}/a")[0].modified - time.time()) < 60
    assert storage.children(f"{url}/missing") == []
    assert not storage.exists(f"{url}/a")
    storage.remove_tree(f"{url}/a")
    storage.remove_tree(f"{url}/a")
    storage.remove(f"{url}/e.txt")
    storage.remove(f"{url}/e.txt")
    assert storage.children(url) == ["ab"]


def test_a_large_file_goes_up_and_comes_down_in_parts(url: str, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 41
    (tmp_path / "in").write_bytes(content)
    storage.upload(tmp_path / "in", f"{url}/large")
    storage.copy(f"{url}/large", f"{url}/copied")
    storage.download(f"{url}/copied", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    with storage.open_read(f"{url}/copied") as stream:
        stream.seek(40 << 20)
        assert stream.read() == content[40 << 20 :]


def test_eight_processes_at_once_never_get_the_same_number(url: str) -> None:
    command = [sys.executable, "-c", CLAIM_MANY, url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    claimed = sorted(int(number) for process in running for number in process.communicate()[0].split())
    assert claimed == list(range(1, 41))


def test_a_version_is_published_resolved_opened_and_removed(url: str, tmp_path: Path) -> None:
    first = publish.run(job_in(tmp_path, uid="a", url=url))
    assert first.published is not None, first.message
    wish = JobFile(
        stage="resolve", namespace="team", name="s", uid="u", model="digits", registry=url, resolve=Resolve(channel="stable")
    )
    resolved = resolve.run(wish).resolved
    assert resolved is not None
    assert (resolved.version, resolved.digest) == (1, first.published.digest)
    registry = registry_at(url)

    def opened(variant: str) -> bytes:
        return open_version(
            url, namespace="team", model="digits", version=1, digest=resolved.digest, variant=variant, into=tmp_path / variant
        ).weights.read_bytes()

    assert opened("int8") == b"i" * 1300
    storage.write_bytes(f"{registry.version_url('digits', 1)}/int8.safetensors", b"i" * 1299 + b"!")
    with pytest.raises(DigestMismatch, match=r"int8.safetensors: bytes 0 to 1300"):
        opened("int8")
    for uid in ("b", "c", "d"):
        publish.run(job_in(tmp_path, uid=uid, url=url, keep=2))
    assert registry.versions("digits") == [3, 4]
    assert registry.rollback("digits", "stable").version == 3
    assert retention.prune(registry, "digits", keep=1) == []


def test_a_publisher_killed_before_its_manifest_publishes_one_version_when_run_again(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(tmp_path, url=url)
    registry = registry_at(url)

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Registry, "commit", killed)
        publish.run(job)
    assert registry.versions("digits") == []
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Registry, "promote_new", killed)
        publish.run(job)
    assert publish.run(job).ok
    assert registry.versions("digits") == [1] == registry.numbers("digits")


def test_a_channel_is_swapped_by_one_at_a_time(url: str) -> None:
    registry = registry_at(url)
    pointers = [published(registry).pointer for _ in range(3)]
    for pointer in pointers:
        registry.promote("digits", "stable", pointer)
    assert registry.rollback("digits", "stable").version == 2
    claim = registry.claim("digits")
    registry.commit(claim, manifest_of(claim, registry=registry))
    assert registry.versions("digits") == [1, 2, 3, 4]


def test_errors_name_the_cause_and_the_way_out(server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(storage.BucketNotFound, match="bucket 'nowhere' does not exist; create it"):
        storage.write_bytes("s3://nowhere/x", b"")
    with pytest.raises(storage.BucketNotFound):
        storage.children("s3://nowhere/x")
    with pytest.raises(storage.NotFound, match="there is no such object"):
        storage.read_bytes(f"s3://{server.bucket}/nothing")
    fresh = S3Store()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(storage.AccessDenied, match="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        fresh.write_bytes(f"s3://{server.bucket}/x", b"")


def test_a_server_that_is_away_is_waited_for_and_then_told(server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(storage.StorageError, match=f"the store at http://127.0.0.1:{port} did not do it") as caught:
        S3Store().write_bytes(f"s3://{server.bucket}/x", b"")
    assert not caught.value.fatal
    assert 1 < time.monotonic() - started < 120
