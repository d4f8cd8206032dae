"""What makes the CPU image small: see runtime/slim.py and runtime/elf.py."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elf import PT_LOAD, Library, shrink, stand_in
from slim import requirements, torch_version

LOCK = (Path(__file__).parents[2] / "lock" / "runtime.txt").read_text()
on_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="stand-ins are made for x86-64")


def test_the_cpu_requirements_are_the_lock_file_without_what_only_a_gpu_uses() -> None:
    kept = "\n".join(requirements(LOCK))
    left_out = set(re.findall(r"^([a-z0-9-]+)==", LOCK, re.M)) - set(re.findall(r"^([a-z0-9-]+)==", kept, re.M))
    assert {"triton", "nvidia-cublas", "nvidia-nccl-cu13"} <= left_out
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in left_out)
    assert all("--hash=sha256:" in entry for entry in requirements(LOCK))


def test_torch_from_another_index_is_asked_for_by_the_locked_version() -> None:
    assert re.fullmatch(r"torch==[0-9.]+", torch_version(LOCK))
    assert "torch==" not in "\n".join(entry.split()[0] for entry in requirements(LOCK, with_torch=False))


@on_x86
def test_a_stand_in_loads_and_its_functions_answer_with_the_status_or_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "libnothing.so.1"
    path.write_bytes(stand_in("libnothing.so.1", versions={"act": "V1", "tellString": None}, texts=["tellString"], status=100))
    library = ctypes.CDLL(str(path))
    library.tellString.restype = ctypes.c_char_p
    assert library.act() == 100
    assert library.tellString() == b"libnothing.so.1 is not in this image: it was built for CPUs"
    find = ctypes.CDLL(None).dlvsym
    find.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(library._handle)
    assert find(handle, b"act", b"V1") and not find(handle, b"act", b"V2")


_names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,30}", fullmatch=True)


@on_x86
@settings(max_examples=30, deadline=None)
@given(versions=st.dictionaries(_names, st.none() | st.sampled_from(["V1", "V2", "libnothing.so.1"]), min_size=1, max_size=60))
def test_every_function_of_a_stand_in_is_found_by_the_loader(
    versions: dict[str, str | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("stand_in") / "libnothing.so.1"
    path.write_bytes(stand_in("libnothing.so.1", versions=versions, texts=[], status=7))
    library = ctypes.CDLL(str(path))
    assert all(library[name]() == 7 for name in versions)


@pytest.mark.parametrize("name", ["libc10.so", "libtorch_nvshmem.so"])
def test_a_shrunk_library_is_smaller_and_equal_in_memory_but_for_gpu_code(name: str, tmp_path: Path) -> None:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    original = Path(spec.origin).parent / "lib" / name
    if not original.exists():
        pytest.skip(f"this build of torch has no {name}")
    path = Path(shutil.copy(original, tmp_path))
    saved = shrink(path)
    before, after = Library(original), Library(path)
    code = next((s for s in before.sections if s.name == ".nv_fatbin"), None)
    expected = _memory(before)
    if code is not None:
        start, end = -(-code.address // 4096) * 4096, (code.address + code.size) // 4096 * 4096
        expected[start:end] = bytes(end - start)
        assert saved >= end - start
    assert saved == original.stat().st_size - path.stat().st_size > 0
    assert _memory(after) == expected


def _memory(library: Library) -> bytearray:
    """What the loader makes of the file."""
    loaded = [segment for segment in library.segments if segment.kind == PT_LOAD]
    memory = bytearray(max(segment.address + segment.in_memory for segment in loaded))
    for segment in loaded:
        memory[segment.address : segment.address + segment.in_file] = library.data[
            segment.offset : segment.offset + segment.in_file
        ]
    # The program headers themselves differ: they say where the bytes lie.
    memory[: library.segments_at + 16 * 56] = bytes(library.segments_at + 16 * 56)
    return memory
