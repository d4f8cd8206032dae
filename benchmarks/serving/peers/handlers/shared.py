"""The model as every peer runs it: fp32, one thread, a batch padded to its longest row."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.serving import workloads
from benchmarks.serving.models import MODULES

Array = NDArray[np.generic]


class Model:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        workload = os.environ["BENCH_WORKLOAD"]
        self._module = MODULES[workload]().eval()
        self._module.load_state_dict(load_file(os.environ["BENCH_WEIGHTS"]))
        example = workloads.find(workload).all_rows()[0]
        self._types = {name: array.dtype for name, array in example.items()}
        self._shapes = {name: array.shape for name, array in example.items()}

    def __call__(self, rows: Sequence[workloads.Row]) -> NDArray[np.float32]:
        """[rows, outputs]"""
        batch = workloads.padded(list(rows))
        with torch.inference_mode():
            output: NDArray[np.float32] = self._module(*(torch.from_numpy(array) for array in batch.values())).numpy()
        return output

    def row(self, raw: bytes) -> workloads.Row:
        """From the bytes of all inputs, one after the other; inputs of free length have equal lengths."""
        share = len(raw) // len(self._types)
        parts = [raw[i * share : (i + 1) * share] for i in range(len(self._types))]
        return {
            name: np.frombuffer(part, dtype=datatype).reshape(self._shape(name))
            for (name, datatype), part in zip(self._types.items(), parts, strict=True)
        }

    def row_of_numbers(self, numbers: Sequence[float]) -> workloads.Row:
        """For a model with one input."""
        return {name: np.asarray(numbers, dtype=self._types[name]).reshape(shape) for name, shape in self._shapes.items()}

    def _shape(self, name: str) -> tuple[int, ...]:
        # Tokens have any length; all else has the shape of the first row.
        return (1, -1) if self._types[name] == np.int64 else self._shapes[name]
