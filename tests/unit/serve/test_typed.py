"""The fast way to read a usual request gives what the complete one gives, and leaves everything else to it."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.datatypes import NUMPY
from modelmill.serve.protocols.document import document
from modelmill.serve.protocols.oip_http import decode
from modelmill.serve.protocols.typed import FLOATS, INTEGERS, MOST_BYTES, Typed
from modelmill.signature import Signature, Tensor

FIXED = Tensor(name="x", shape=(-1, 3))


def typed(*tensors: Tensor) -> Typed:
    return Typed(Signature(inputs=tensors, outputs=(Tensor(name="y"),)))


def body(*inputs: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **fields}).encode()


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2.5, -3], **changes}


numbers = {
    **{datatype: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64 - 1) for datatype in FLOATS},
    **{datatype: st.integers(int(np.iinfo(NUMPY[datatype]).min), int(np.iinfo(NUMPY[datatype]).max)) for datatype in INTEGERS},
}


@given(datatype=st.sampled_from(sorted(numbers)), data=st.data())
def test_both_ways_read_the_same(datatype: str, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 4))
    values = data.draw(st.lists(numbers[datatype], min_size=2 * rows, max_size=2 * rows))
    one = Tensor(name="x", datatype=datatype, shape=(-1, 2))
    text = body(tensor(datatype=datatype, shape=[rows, 2], data=values), id="7")
    read = typed(one).decode(text)
    assert read is not None
    found, identity = read
    assert (found.count, identity) == (rows, "7")
    expected = decode({"x": one}, document(text)["inputs"], memoryview(b""))["x"]
    assert (found.arrays["x"].dtype, found.arrays["x"].shape) == (expected.dtype, expected.shape)
    assert found.arrays["x"].tobytes() == expected.tobytes()


def test_several_inputs_come_in_the_signatures_order() -> None:
    reader = typed(Tensor(name="x", shape=(-1, 2)), Tensor(name="z", shape=(-1,)))
    read = reader.decode(body(tensor(name="z", shape=[2], data=[1, 2]), tensor(shape=[2, 2], data=[1, 2, 3, 4])))
    assert read is not None
    assert [(name, array.tolist()) for name, array in read[0].arrays.items()] == [("x", [[1, 2], [3, 4]]), ("z", [1, 2])]


def test_inputs_with_different_numbers_of_rows_and_free_shapes_are_left_to_the_complete_reader() -> None:
    reader = typed(Tensor(name="x", shape=(-1, 2)), Tensor(name="z", shape=(-1,)))
    assert reader.decode(body(tensor(name="z", shape=[1], data=[1]), tensor(shape=[2, 2], data=[1, 2, 3, 4]))) is None
    assert reader.decode(body(tensor(name="z", shape=[0], data=[]), tensor(shape=[0, 2], data=[]))) is None
    assert typed(Tensor(name="x", shape=(-1, -1))).decode(body(tensor())) is None


LEFT: dict[str, bytes] = {
    "nested": body(tensor(data=[[1, 2, 3]])),
    "parameters": body(tensor(), parameters={"priority": 1}),
    "outputs": body(tensor(), outputs=[{"name": "y"}]),
    "a tensor's parameters": body(tensor(parameters={})),
    "no inputs": body(),
    "twice": body(tensor(), tensor()),
    "unknown": body(tensor(name="other")),
    "another datatype": body(tensor(datatype="FP64")),
    "another shape": body(tensor(shape=[1, 4])),
    "a shape that is no shape": body(tensor(shape=[])),
    "a negative shape": body(tensor(shape=[-1, 3], data=[])),
    "too few": body(tensor(data=[1, 2])),
    "booleans": body(tensor(data=[1, True, 2])),
    "text": body(tensor(data=["1", 2, 3])),
    "null": body(tensor(data=[1, None, 3])),
    "an id that is no text": body(tensor(), id=7),
    "no JSON": b"{",
    "no object": b"[]",
    "no text": b'{"\xff": 1}',
    "large": body(tensor(shape=[2000, 3], data=[0.5] * 6000)),
}


@pytest.mark.parametrize("name", LEFT)
def test_the_rest_is_left_to_the_complete_reader(name: str) -> None:
    assert typed(FIXED).decode(LEFT[name]) is None


def test_large_bodies_never_become_python_numbers() -> None:
    assert len(LEFT["large"]) > MOST_BYTES


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("UINT8", -1), ("UINT64", 2**64), ("INT32", 1.5)])
def test_what_an_integer_cannot_hold_is_left_to_the_complete_reader(datatype: str, value: float) -> None:
    reader = typed(Tensor(name="x", datatype=datatype, shape=(-1, 1)))
    assert reader.decode(body(tensor(datatype=datatype, shape=[1, 1], data=[value]))) is None


@pytest.mark.parametrize("datatypes", [("FP32", "INT64"), ("BOOL",), ("FP16",), ("BF16",)])
def test_signatures_without_one_kind_of_plain_numbers_are_left_to_it(datatypes: tuple[str, ...]) -> None:
    tensors = [Tensor(name=f"x{i}", datatype=datatype, shape=(-1, 1)) for i, datatype in enumerate(datatypes)]
    inputs = [tensor(name=one.name, datatype=one.datatype, shape=[1, 1], data=[1]) for one in tensors]
    assert typed(*tensors).decode(body(*inputs)) is None
