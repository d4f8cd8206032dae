"""Warm-up: the model runs on zeros before the pod says that it is ready.

One row and a full batch: the first run of each shape pays for memory, kernels' choice and caches, which no client
should. A module that cannot run at all is found here, and the old version serves on.
"""

import numpy as np

from modelmill.serve.datatypes import NUMPY
from modelmill.serve.model import TorchModel
from modelmill.serve.rows import Rows

FREE_DIMENSION = 8
"""What stands in for a free dimension that is not the batch."""


def warm_up(model: TorchModel, *, max_rows: int) -> None:
    for count in sorted({1, max_rows}):
        model(zeros(model, count=count))


def zeros(model: TorchModel, *, count: int) -> Rows:
    arrays = {
        tensor.name: np.zeros(
            (count, *(FREE_DIMENSION if size == -1 else size for size in tensor.shape[1:])), dtype=NUMPY[tensor.datatype]
        )
        for tensor in model.signature.inputs
    }
    return Rows(arrays, count)
