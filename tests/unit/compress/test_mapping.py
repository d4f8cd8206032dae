"""Mapped files: what is let go takes no memory and is still there. Not: what the bytes mean (`test_container`)."""

import gc
from pathlib import Path

import pytest
import torch

from modelmill.compress import mapping

SIZE = 8 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


def resident() -> int:
    """Bytes of mapped files that this process holds."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile:"))
    return int(line.split()[1]) * 1024


def test_what_is_let_go_takes_no_memory_and_reads_the_same(file: Path) -> None:
    whole = mapping.mapped(file)
    assert int(whole.max()) == 255
    part, before = whole[1000 : SIZE - 1000], resident()
    mapping.drop_pages(part)
    assert before - resident() > SIZE * 0.9
    assert bytes(whole.tolist()) == file.read_bytes()


def test_memory_that_is_not_of_a_file_is_left_alone(file: Path) -> None:
    whole = mapping.mapped(file)
    own = whole.clone()
    mapping.drop_pages(own)
    assert torch.equal(own, whole)


def test_writing_does_not_reach_the_file(file: Path) -> None:
    before = file.read_bytes()
    mapping.mapped(file).zero_()
    assert file.read_bytes() == before


def test_a_part_keeps_the_mapping_and_the_last_one_ends_it(file: Path) -> None:
    part = mapping.mapped(file)[5:9]
    gc.collect()
    assert part.tolist() == [5, 6, 7, 8]
    known = len(mapping._open)
    del part
    gc.collect()
    assert len(mapping._open) == known - 1
