"""The requests of each workload: seeded rows, the same for every server and for the in-process limit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.wires import Wire

Array = NDArray[np.generic]
Row = dict[str, Array]
"""Inputs by name, each with a leading dimension of 1."""
ROWS = 256
CHECKED = 64
LENGTHS = {"median": 24, "sigma": 0.6, "least": 8, "most": 128}
"""Tokens a row of the encoder: log-normal, clipped; the mean is about 29."""
FIRST, LAST, SPECIAL, WORDS = 101, 102, 1000, 30522
BIG_SIDE = 1024
"""3 x 1024 x 1024 floats are 12.6 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    name: str
    make: Callable[[np.random.Generator], Row]
    output: str
    tolerance: float
    """Largest accepted error, as a share of the largest expected value: kernels and batch sizes add in other orders."""
    wire: Wire
    """How tensors travel where the server speaks the Open Inference Protocol."""
    slow: bool
    """A batch takes long enough for the unfinished one at the end of a run to matter."""
    rows: int = ROWS

    def all_rows(self) -> list[Row]:
        generator = np.random.default_rng(0)
        return [self.make(generator) for _ in range(self.rows)]


def _vector(generator: np.random.Generator) -> Row:
    return {"x": generator.standard_normal((1, 64), dtype=np.float32)}


def _image(generator: np.random.Generator) -> Row:
    return {"image": generator.standard_normal((1, 3, 64, 64), dtype=np.float32)}


def _tokens(generator: np.random.Generator) -> Row:
    drawn = generator.lognormal(np.log(LENGTHS["median"]), LENGTHS["sigma"])
    length = int(np.clip(round(drawn), LENGTHS["least"], LENGTHS["most"]))
    ids = generator.integers(SPECIAL, WORDS, size=(1, length), dtype=np.int64)
    ids[0, 0], ids[0, -1] = FIRST, LAST
    return {"input_ids": ids, "attention_mask": np.ones((1, length), dtype=np.int64)}


def _big(generator: np.random.Generator) -> Row:
    return {"x": generator.standard_normal((1, 3, BIG_SIDE, BIG_SIDE), dtype=np.float32)}


WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload(name="mlp", make=_vector, output="y", tolerance=1e-5, wire=Wire.V2_JSON, slow=False),
        Workload(name="cnn", make=_image, output="logits", tolerance=1e-4, wire=Wire.V2_BINARY, slow=True),
        Workload(name="encoder", make=_tokens, output="embedding", tolerance=1e-4, wire=Wire.V2_BINARY, slow=True),
    )
}
BIG = Workload(name="big", make=_big, output="y", tolerance=0.0, wire=Wire.V2_BINARY, slow=False, rows=1)


def padded(rows: list[Row]) -> Row:
    """One batch: every row padded with zeros to the longest."""
    batch = {}
    for name in rows[0]:
        arrays = [row[name] for row in rows]
        shape = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
        out = np.zeros((len(arrays), *shape), dtype=arrays[0].dtype)
        for i, array in enumerate(arrays):
            corner: tuple[int | slice, ...] = (i, *(slice(size) for size in array.shape[1:]))
            out[corner] = array[0]
        batch[name] = out
    return batch


def find(name: str) -> Workload:
    return BIG if name == BIG.name else WORKLOADS[name]
