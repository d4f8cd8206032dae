"""The safetensors container: round trips, against the reference reader too, and files that mean harm."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modelmill.compress import container
from modelmill.compress.errors import BadArtifact

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]


@st.composite
def tensor_maps(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    names = draw(st.lists(st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__"), max_size=6, unique=True))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))
    result = {}
    for name in names:
        shape = draw(st.lists(st.integers(0, 5), max_size=3))
        values = torch.randint(0, 100, shape, generator=generator)
        result[name] = values.to(draw(st.sampled_from(DTYPES)))
    return result


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and left[n].shape == right[n].shape and torch.equal(left[n], right[n]) for n in left
    )


@given(tensor_maps())
def test_the_reference_reader_and_ours_read_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, torch.Tensor]
) -> None:
    path = tmp_path_factory.mktemp("c") / "w.safetensors"
    size = container.write(path, tensors, metadata={"key": "value"})
    assert size == path.stat().st_size
    read, metadata = container.read(path)
    assert same(read, tensors)
    assert metadata == {"key": "value"}
    assert same(load_file(path), tensors)
    with safe_open(path, framework="pt") as reference:
        assert reference.metadata() == {"key": "value"}


def test_files_of_the_reference_writer_are_read(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 5), "odd": torch.ones(3, dtype=torch.int8), "n": torch.tensor(7), "h": torch.ones(2).half()}
    save_file(tensors, tmp_path / "w.safetensors")
    assert same(container.read(tmp_path / "w.safetensors")[0], tensors)


def test_tensors_of_whole_cache_lines_begin_at_one(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(3), "a": torch.randn(64, 64), "c": torch.ones(64, 32, dtype=torch.int8), "d": torch.ones(1)}
    container.write(tmp_path / "w", tensors, metadata={})
    read, _ = container.read(tmp_path / "w")
    assert [read[name].data_ptr() % 64 for name in ("a", "c")] == [0, 0]


def test_reading_maps_the_file_instead_of_copying_it(tmp_path: Path) -> None:
    container.write(tmp_path / "w", {"a": torch.zeros(64, 64), "b": torch.zeros(64)}, metadata={})
    read, _ = container.read(tmp_path / "w")
    assert read["a"].untyped_storage().data_ptr() == read["b"].untyped_storage().data_ptr()
    read["a"].fill_(1.0)
    assert bool((container.read(tmp_path / "w")[0]["a"] == 0).all())  # the mapping is private


def test_the_same_tensors_make_the_same_bytes(tmp_path: Path) -> None:
    one, two = {"a": torch.ones(5), "b": torch.ones(16)}, {"b": torch.ones(16), "a": torch.ones(5)}
    container.write(tmp_path / "one", one, metadata={"k": "v"})
    container.write(tmp_path / "two", two, metadata={"k": "v"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def file_of(path: Path, header: Any, *, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "data", "told"),
    [
        ({"w": entry("F8")}, b"1234", "tensor 'w': dtype 'F8'"),
        ({"w": 7}, b"", "tensor 'w': dtype 7"),
        ({"w": "F32"}, b"", "tensor 'w': dtype 'F32'"),
        ({"w": entry(dtype=["F32"])}, b"1234", "tensor 'w': dtype .'F32'."),  # type: ignore[arg-type]
        ({"w": entry(shape=(0, 1 << 62, 1 << 62), offsets=(0, 0))}, b"", "larger than any tensor"),
        ({"w": entry(dtype="BOOL", shape=(2,), offsets=(0, 2))}, b"\x01\x02", "a byte of a BOOL is 2"),
        ('{"w": 1}'.encode("utf-16"), b"", "not JSON"),
        ({"w": entry(shape=(-1,))}, b"1234", "tensor 'w': shape"),
        ({"w": entry(shape=(1.5,))}, b"1234", "tensor 'w': shape"),
        ({"w": entry(shape=(True,))}, b"1234", "tensor 'w': shape"),
        ({"w": entry(shape=(1,) * 40)}, b"1234", "tensor 'w': shape"),
        ({"w": entry(shape=(1 << 62, 1 << 62))}, b"1234", "tensor 'w': shape .* needs"),
        ({"w": entry(shape=(1 << 80,))}, b"1234", "tensor 'w': shape"),
        ({"w": entry(offsets=(0, 8))}, b"12345678", "tensor 'w': shape .* needs 4 bytes, data_offsets give 8"),
        ({"w": entry(offsets=(4, 0))}, b"1234", "tensor 'w': shape .* give -4"),
        ({"w": entry(offsets=(0,))}, b"1234", "tensor 'w': data_offsets"),
        ({"w": entry(offsets=(4, 8))}, b"12345678", "tensor 'w': bytes 4 to 8 of a buffer of 8, expected to begin at 0"),
        ({"a": entry(), "b": entry(offsets=(2, 6))}, b"123456", "tensor 'b': bytes 2 to 6"),
        ({"w": entry(shape=(4,), offsets=(0, 16))}, b"1234", "tensor 'w': bytes 0 to 16 of a buffer of 4"),
        ({"w": entry()}, b"123456", "end at byte 4, the buffer at 6"),
        ({"__metadata__": {"a": 1}, "w": entry()}, b"1234", "__metadata__ must map strings"),
        ([1], b"", "must be a JSON object"),
        (b"{nonsense", b"", "not JSON"),
        (b'{"w": 1, "w": 2}', b"", "a name occurs twice"),
        (b"[" * 100_000, b"", "not JSON"),
        (b"\xff\xfe", b"", "not JSON"),
    ],
)
def test_a_hostile_header_is_refused_with_the_place(tmp_path: Path, header: Any, data: bytes, told: str) -> None:
    with pytest.raises(BadArtifact, match=told):
        container.read(file_of(tmp_path / "w", header, data=data))


@pytest.mark.parametrize("length", [0, 1, 1 << 20, (16 << 20) + 1, (1 << 64) - 1])
def test_a_header_longer_than_the_file_or_the_limit_is_refused_before_it_is_read(tmp_path: Path, length: int) -> None:
    with pytest.raises(BadArtifact, match="header of"):
        container.read(file_of(tmp_path / "w", {}, length=length))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("c") / "w"
    path.write_bytes(data)
    try:
        container.read(path)
    except BadArtifact:
        pass
