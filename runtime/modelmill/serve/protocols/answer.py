"""The usual JSON answer of the Open Inference Protocol: all outputs, put together from what never changes and the numbers."""

from collections.abc import Sequence

import numpy as np
import orjson

from modelmill.datatypes import NUMPY, numbers
from modelmill.serve.http import Response
from modelmill.serve.rows import Rows
from modelmill.signature import Tensor


class Answer:
    def __init__(self, fields: dict[str, str], outputs: Sequence[Tensor]) -> None:
        """`fields` come before the outputs."""
        self._opening = orjson.dumps(fields)[:-1]
        self._outputs = [(tensor, _opening(tensor)) for tensor in outputs]

    def __call__(self, identity: str | None, rows: Rows) -> Response:
        pieces = [self._opening]
        if identity is not None:
            pieces += (b',"id":', orjson.dumps(identity))
        pieces.append(b',"outputs":[')
        for tensor, opening in self._outputs:
            array = np.ascontiguousarray(rows.arrays[tensor.name], NUMPY[tensor.datatype])
            values = numbers(array, tensor.datatype).reshape(-1)
            data = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
            pieces += (opening, orjson.dumps(array.shape), b',"data":', data, b"},")
        # Not the comma after the last one.
        pieces[-1] = b"}]}"
        return Response(body=(b"".join(pieces),))


def _opening(tensor: Tensor) -> bytes:
    return orjson.dumps({"name": tensor.name, "datatype": tensor.datatype})[:-1] + b',"shape":'
