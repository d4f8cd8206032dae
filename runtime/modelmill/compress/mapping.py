"""Files mapped into memory.

A page of a mapped file counts as the process's memory once it was touched. What a weight has been copied from is not needed
again: `drop_pages` gives such pages back, and the kernel reads them anew should anybody look.
"""

import mmap
import weakref
from pathlib import Path

import torch

_open: "weakref.WeakKeyDictionary[mmap.mmap, int]" = weakref.WeakKeyDictionary()
"""Where each mapping that a tensor still uses begins."""


def mapped(path: Path) -> torch.Tensor:
    """uint8 [bytes of the file], which must not be empty. Private: what is written to the tensor does not reach the file."""
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensor = torch.frombuffer(mapping, dtype=torch.uint8)
    _open[mapping] = tensor.data_ptr()
    return tensor


def drop_pages(tensor: torch.Tensor) -> None:
    """Of a contiguous part of a mapped file that was not written to: its whole pages take no memory. Of any other: nothing."""
    first, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    for mapping, begin in list(_open.items()):
        if begin <= first and end <= begin + len(mapping):
            start = -(-(first - begin) // mmap.PAGESIZE) * mmap.PAGESIZE
            length = (end - begin) // mmap.PAGESIZE * mmap.PAGESIZE - start
            if length > 0:
                mapping.madvise(mmap.MADV_DONTNEED, start, length)
