"""The manifest: what is written comes back, what is wrong is refused before it is acted on."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelmill.artifact import digests, manifest
from modelmill.artifact.errors import DigestMismatch, ManifestError
from modelmill.artifact.manifest import RECIPE, Code, Lineage, Manifest, Variant
from modelmill.artifact.registry import Claim
from modelmill.contract.steps import Prune, Quantize, Step
from tests.unit.artifact.helpers import SIGNATURE, manifest_of

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
STEPS = st.lists(st.sampled_from([Step(prune=Prune(threshold=0.1)), Step(quantize=Quantize())]), max_size=3).map(tuple)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    files = [digests.describe(io.BytesIO(draw(st.binary(max_size=5000))), path=f"{name}.x", chunk_bytes=1024) for name in names]
    variants = tuple(
        Variant(
            name=name,
            file=file.path,
            bytes=file.bytes,
            steps=draw(STEPS),
            metrics=draw(st.dictionaries(NAMES, FINITE, max_size=3)),
            latency_millis=draw(st.none() | FINITE),
            tier=draw(st.none() | NAMES),
        )
        for name, file in zip(names, files, strict=True)
    )
    return Manifest(
        model=draw(NAMES),
        version=draw(st.integers(1, 10**9)),
        created="2026-01-01T00:00:00Z",
        lineage=Lineage(origin="training", job=draw(st.none() | NAMES), seed=draw(st.none() | st.integers())),
        signature=SIGNATURE,
        code=Code(kind=RECIPE, entrypoint="recipe:Tiny", files=(files[0].path,)),
        hyperparameters=draw(st.dictionaries(NAMES, st.text() | st.integers() | FINITE, max_size=3)),
        variants=variants,
        files=tuple(files),
    )


@settings(max_examples=40, deadline=None)
@given(manifests())
def test_what_is_written_is_read_back_the_same(written: Manifest) -> None:
    data = manifest.encode(written)
    read = manifest.parse(data, expected_digest=manifest.digest(data), where="here")
    assert read == written
    assert manifest.encode(read) == data


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=6000), st.data())
def test_a_changed_byte_is_found_in_its_chunk(content: bytes, data: st.DataObject) -> None:
    file = digests.describe(io.BytesIO(content), path="f", chunk_bytes=1024)
    passed: list[bytes] = []
    digests.verify(io.BytesIO(content), file, where="f", sink=passed.append)
    assert b"".join(passed) == content
    if content:
        at = data.draw(st.integers(0, len(content) - 1))
        changed = content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
        start = at // 1024 * 1024
        with pytest.raises(DigestMismatch, match=f"f: bytes {start} to"):
            digests.verify(io.BytesIO(changed), file, where="f")
        with pytest.raises(DigestMismatch, match="it ends after"):
            digests.verify(io.BytesIO(content[:at]), file, where="f")
    with pytest.raises(DigestMismatch, match="longer than"):
        digests.verify(io.BytesIO(content + b"!"), file, where="f")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=6000), data=st.data())
def test_an_open_file_is_checked_by_threads_as_a_stream_is(content: bytes, data: st.DataObject, tmp_path: Path) -> None:
    file = digests.describe(io.BytesIO(content), path="f", chunk_bytes=1024)
    at = data.draw(st.integers(0, len(content) - 1))
    changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    start = at // 1024 * 1024
    told = ((changed, f"f: bytes {start} to"), (content[:at], f"ends after {at} of"), (content + b"!", "longer than"))
    path = tmp_path / "f"
    for written, words in told:
        path.write_bytes(written)
        with path.open("rb") as stream, pytest.raises(DigestMismatch, match=words):
            digests.verify_open(stream.fileno(), file, where="f")
    path.write_bytes(content)
    with path.open("rb") as stream:
        digests.verify_open(stream.fileno(), file, where="f")


def _raw() -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(manifest.encode(manifest_of(Claim(version=3, token="t", created="2026-01-01T00:00:00Z"))))
    return raw


def _file(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw["files"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw.update(schema=2), "schema is 2, this release reads up to 1: use a newer runtime image"),
        (lambda raw: raw.update(schema=0), "schema: 0"),
        (lambda raw: raw.update(version=0), "version: 0 is less than 1"),
        (lambda raw: raw.update(version=True), "version: expected int"),
        (lambda raw: raw.pop("signature"), "signature: missing"),
        (lambda raw: raw["signature"]["inputs"][0].update(shape=[3, 4]), "must begin with -1"),
        (_file(path="../../etc/passwd"), "not a path inside a version"),
        (_file(path="/etc/passwd"), "not a path inside a version"),
        (_file(path="a//b"), "not a path inside a version"),
        (_file(path="a\x00b"), "not a path inside a version"),
        (_file(path="a\\..\\b"), "not a path inside a version"),
        (_file(path="manifest.json"), "not a path inside a version"),
        (_file(path="claim"), "not a path inside a version"),
        (_file(path="."), "not a path inside a version"),
        (_file(bytes=-1), "is not a size"),
        (_file(bytes=1 << 60), "is not a size"),
        (_file(bytes=10**400), "is not a size"),
        (_file(chunkBytes=0), "chunkBytes 0 is not from"),
        (_file(chunkBytes=1 << 40), "chunkBytes"),
        (_file(chunks=[]), "0 chunks, 1 are needed"),
        (_file(chunks=["0" * 63]), "not SHA-256"),
        (_file(digest="md5:" + "0" * 64), "not SHA-256"),
        (lambda raw: raw["files"].append(raw["files"][0]), "files: dense.safetensors more than once"),
        (lambda raw: raw["variants"].append(raw["variants"][0]), "variants: dense more than once"),
        (lambda raw: raw["variants"][0].update(name="../x"), "is not a name"),
        (lambda raw: raw["variants"][0].update(file="other"), "not listed in files"),
        (lambda raw: raw["variants"][0].update(bytes=1), "its file has another size"),
        (lambda raw: raw["code"].update(files=["x.py"]), "not listed in files"),
        (lambda raw: raw["code"].update(kind="pickle"), "neither a recipe nor one exported program"),
        (lambda raw: raw["code"].pop("entrypoint"), "needs an entrypoint"),
    ],
)
def test_a_manifest_that_does_not_add_up_is_refused(change: Callable[[dict[str, Any]], Any], words: str) -> None:
    raw = _raw()
    change(raw)
    with pytest.raises(ManifestError, match=words) as caught:
        manifest.parse(json.dumps(raw).encode(), where="s3://b/digits/3/manifest.json")
    assert "s3://b/digits/3/manifest.json" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"[" * 100_000, b'{"version": ' + b"9" * 5000 + b"}", b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match="here: not a manifest"):
        manifest.parse(data, where="here")


def test_fields_of_a_later_release_are_ignored() -> None:
    raw = {**_raw(), "signatures": [{"by": "somebody"}]}
    assert manifest.parse(json.dumps(raw).encode(), where="here").version == 3


def test_a_number_that_json_cannot_hold_is_not_written() -> None:
    plain = manifest_of(Claim(version=1, token="t", created="2026-01-01T00:00:00Z"))
    broken = Manifest(**{**{name: getattr(plain, name) for name in plain.__slots__}, "hyperparameters": {"lr": float("nan")}})
    with pytest.raises(ManifestError, match="cannot be written as JSON"):
        manifest.encode(broken)


def test_another_digest_than_the_expected_one_is_refused() -> None:
    data = manifest.encode(manifest_of(Claim(version=1, token="t", created="2026-01-01T00:00:00Z")))
    with pytest.raises(DigestMismatch, match="the store was changed since"):
        manifest.parse(data, expected_digest=manifest.digest(b"other"), where="here")
