"""The native reader: what it takes means what the complete reader says it means, and the rest it leaves alone."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelmill.datatypes import NUMPY, Array
from modelmill.serve._fastpath import Batch, Gate, Slot
from modelmill.serve.protocols.document import document
from modelmill.serve.protocols.oip_http import decode
from modelmill.signature import Tensor
from tests.unit.serve.support import post

PATH = "/v2/models/m/infer"
FIXED = Tensor(name="x", shape=(-1, 3))
FLOATS = ("FP32", "FP64")
INTEGERS = ("INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64")


class Reading:
    """A gate for these inputs, one output and batches of `rows`, that knows the head `post` makes."""

    def __init__(self, *tensors: Tensor, output: str = "FP32", rows: int = 8, room: int = 100) -> None:
        self.scratch = bytearray(1 << 16)
        self.room = room
        self.gate = Gate(
            inputs=[(tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in tensors],
            outputs=[(f'{{"name":"y","datatype":"{output}","shape":[', output)],
            opening='{"model_name":"m"',
            rows=rows,
            message_bytes=1 << 14,
            bounds=(0.001, 1.0),
            scratch=memoryview(self.scratch),
            opened=lambda: self.room,
        )
        self.gate.learn(post(PATH, b"{}"), PATH)

    def take(self, message: bytes, owner: object = "somebody") -> Slot | None:
        self.scratch[: len(message)] = message
        return self.gate.take(owner, len(message))

    def body(self, body: bytes, owner: object = "somebody") -> Slot | None:
        return self.take(post(PATH, body), owner)

    def batch(self) -> Batch:
        (batch,) = self.gate.seal()
        return batch


def rows_of(batch: Batch, *tensors: Tensor) -> dict[str, Array]:
    return {
        tensor.name: np.frombuffer(memory, NUMPY[tensor.datatype])[: batch.rows * math.prod(tensor.shape[1:])].reshape(
            batch.rows, *tensor.shape[1:]
        )
        for tensor, memory in zip(tensors, batch.inputs, strict=True)
    }


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2.5, -3], **changes}


def body(*inputs: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **fields}).encode()


numbers = {
    **{datatype: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64 - 1) for datatype in FLOATS},
    **{datatype: st.integers(int(np.iinfo(NUMPY[datatype]).min), int(np.iinfo(NUMPY[datatype]).max)) for datatype in INTEGERS},
}


@given(datatype=st.sampled_from(sorted(numbers)), data=st.data())
def test_numbers_are_read_as_the_complete_reader_reads_them(datatype: str, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 4))
    values = data.draw(st.lists(numbers[datatype], min_size=2 * rows, max_size=2 * rows))
    one = Tensor(name="x", datatype=datatype, shape=(-1, 2))
    text = body(tensor(datatype=datatype, shape=[rows, 2], data=values), id="7")
    reading = Reading(one)
    assert reading.body(text) is not None
    found = rows_of(reading.batch(), one)["x"]
    expected = decode({"x": one}, document(text)["inputs"], memoryview(b""))["x"]
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


WORDS = (
    *('{"inputs":[', '"name":', '"x"', '"z"', '"datatype":', '"FP32"', '"shape":', "[1,3]", "[2,3]", '"data":', "[1,2,3]"),
    *(
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        " ",
        "\n",
        "1",
        "-0",
        "01",
        "1.",
        ".5",
        "1e5",
        "1E-400",
        "1e999",
        "-",
        "+1",
        "0x1",
        *("12345678901234567890", "1180591620717411303424", "-9999999999999999999", "-1180591620717411303424.0"),
    ),
    *("NaN", "Infinity", "null", "true", '"id":"a"', '"\\u0061"', "é", "\x01", "0.1234567890123456789012345", "9007199254740993"),
)


@given(text=st.lists(st.sampled_from(WORDS), max_size=20).map("".join) | st.text(max_size=20))
@example(text='{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]}')
@example(text=' { "inputs" : [ { "data" : [ -0.0 , 1e5 , 9 ] , "name" : "x" , "shape" : [1,3] , "datatype" : "FP32" } ] } ')
def test_what_is_taken_is_right(text: str) -> None:
    _taken_is_right(text.encode())


USUAL = body(tensor(), id="some")


@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(USUAL)), st.integers(0, 3), st.sampled_from([b"", *(word.encode() for word in WORDS)])),
        min_size=1,
        max_size=3,
    )
)
def test_what_is_taken_of_a_damaged_request_is_right(edits: list[tuple[int, int, bytes]]) -> None:
    damaged = USUAL
    for place, length, word in edits:
        damaged = damaged[:place] + word + damaged[place + length :]
    _taken_is_right(damaged)


def _taken_is_right(text: bytes) -> None:
    reading = Reading(FIXED)
    if reading.body(text) is None:
        assert reading.gate.seal() == []
        return
    expected = decode({"x": FIXED}, document(text)["inputs"], memoryview(b""))["x"]
    assert rows_of(reading.batch(), FIXED)["x"].tobytes() == expected.tobytes()


def test_several_inputs_may_come_in_any_order() -> None:
    tensors = Tensor(name="x", shape=(-1, 2)), Tensor(name="z", datatype="INT64", shape=(-1,))
    reading = Reading(*tensors)
    assert reading.body(body(tensor(name="z", datatype="INT64", shape=[2], data=[1, 2]), tensor(shape=[2, 2], data=[1, 2, 3, 4])))
    found = rows_of(reading.batch(), *tensors)
    assert [(name, array.tolist()) for name, array in found.items()] == [("x", [[1, 2], [3, 4]]), ("z", [1, 2])]


def test_inputs_with_different_numbers_of_rows_are_left() -> None:
    reading = Reading(Tensor(name="x", shape=(-1, 2)), Tensor(name="z", shape=(-1,)))
    assert reading.body(body(tensor(name="z", shape=[1], data=[1]), tensor(shape=[2, 2], data=[1, 2, 3, 4]))) is None
    assert reading.body(body(tensor(name="z", shape=[0], data=[]), tensor(shape=[0, 2], data=[]))) is None
    assert reading.body(body(tensor(name="z", shape=[1], data=[1]))) is None


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
    "too many": body(tensor(data=[1, 2, 3, 4])),
    "booleans": body(tensor(data=[1, True, 2])),
    "text": body(tensor(data=["1", 2, 3])),
    "null": body(tensor(data=[1, None, 3])),
    "an id that is no text": body(tensor(), id=7),
    "an id with an escape": body(tensor(), id='a"b'),
    "more rows than a batch": body(tensor(shape=[9, 3], data=[0.5] * 27)),
    "more behind it": body(tensor()) + b"x",
    "no JSON": b"{",
    "no object": b"[]",
    "no text": b'{"\xff": 1}',
    "nothing": b"",
}


@pytest.mark.parametrize("name", LEFT)
def test_the_rest_is_left(name: str) -> None:
    reading = Reading(FIXED)
    assert reading.body(LEFT[name]) is None
    assert reading.gate.seal() == []


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("UINT8", -1), ("UINT64", 2**64), ("INT32", 1.5)])
def test_what_an_integer_cannot_hold_is_left(datatype: str, value: float) -> None:
    reading = Reading(Tensor(name="x", datatype=datatype, shape=(-1, 1)))
    assert reading.body(body(tensor(datatype=datatype, shape=[1, 1], data=[value]))) is None


@pytest.mark.parametrize(
    ("number", "taken"),
    [(10**18, True), (2**64 - 1, True), (2**64, False), (-(2**63), True), (-(2**63) - 1, False), (10**30, False)],
)
def test_whole_numbers_are_taken_as_far_as_64_bits_hold_them(number: int, taken: bool) -> None:
    reading = Reading(FIXED)
    assert (reading.body(body(tensor(data=[number, 0, 1]))) is not None) == taken


@pytest.mark.parametrize(("datatype", "shape"), [("BOOL", (-1, 1)), ("FP16", (-1, 1)), ("BYTES", (-1, 1)), ("FP32", (-1, -1))])
def test_there_is_no_gate_for_other_datatypes_and_free_shapes(datatype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"no fast path|sizes must be known"):
        Reading(Tensor(name="x", datatype=datatype, shape=shape))


def test_only_known_heads_are_taken_with_any_length_of_the_body() -> None:
    reading = Reading(FIXED)
    short, long = body(tensor()), body(tensor(data=[0.123456789, 1e-30, 12345.678]))
    assert reading.body(short) and reading.body(long)
    assert reading.take(post("/v2/models/m/versions/3/infer", short)) is None
    assert reading.take(post(PATH, short, "Accept-Encoding: gzip")) is None
    assert reading.take(post(PATH, short)[:-1]) is None
    assert reading.take(post(PATH, short) + b"G") is None
    assert reading.take(post(PATH, short).replace(b"Content-Length: ", b"Content-Length: +")) is None
    assert reading.take(post(PATH, short).replace(b"\r\n\r\n", f"\r\nContent-Length: {len(short)}\r\n\r\n".encode())) is None
    reading.gate.forget()
    assert reading.body(short) is None


def test_a_batch_that_is_full_makes_way_for_the_next_and_no_request_is_cut() -> None:
    reading = Reading(FIXED, rows=4)
    for count in (3, 2, 2, 1):
        assert reading.body(body(tensor(shape=[count, 3], data=[float(count)] * 3 * count)))
    batches = reading.gate.seal()
    assert [(batch.rows, batch.requests) for batch in batches] == [(3, 1), (4, 2), (1, 1)]
    assert rows_of(batches[1], FIXED)["x"].tolist() == [[2.0] * 3] * 4


def test_no_more_requests_are_taken_than_may_wait() -> None:
    reading = Reading(FIXED, rows=2, room=3)
    assert [reading.body(USUAL) is not None for _ in range(5)] == [True, True, True, False, False]
    assert [batch.requests for batch in reading.gate.seal()] == [2, 1]
    reading.room = 0
    assert reading.body(USUAL) is None


def test_who_went_away_gets_no_answer_and_the_others_theirs() -> None:
    reading = Reading(FIXED)
    slots = [reading.body(body(tensor(), id=name), name) for name in ("a", "b", "c")]
    assert slots[1] is not None
    slots[1].cancel()
    batch = reading.batch()
    answers, counts, seconds, received, sent = batch.answer([np.arange(3, dtype=np.float32).reshape(3, 1)])
    assert [owner for owner, _ in answers] == ["a", "c"]
    documents = [json.loads(message.partition(b"\r\n\r\n")[2]) for _, message in answers]
    assert [(one["id"], one["outputs"][0]["data"]) for one in documents] == [("a", [0.0]), ("c", [2.0])]
    assert (sum(counts), received) == (2, 2 * len(body(tensor(), id="a")))
    assert seconds > 0
    assert sent == sum(len(message.partition(b"\r\n\r\n")[2]) for _, message in answers)
    assert [owner for owner, _, _ in batch.owners()] == ["a", "c"]
    assert [(alone.rows, [owner for owner, _, _ in alone.owners()]) for alone in batch.split()] == [(1, ["a"]), (1, ["c"])]


def test_each_of_a_batch_that_is_split_has_its_own_rows() -> None:
    reading = Reading(FIXED)
    for count in (1, 2):
        reading.body(body(tensor(shape=[count, 3], data=[float(count)] * 3 * count)))
    one, two = reading.batch().split()
    assert rows_of(one, FIXED)["x"].tolist() == [[1.0] * 3]
    assert rows_of(two, FIXED)["x"].tolist() == [[2.0] * 3] * 2
    ((_, message),) = two.answer([np.array([[5.0], [6.0]], np.float32)])[0]
    assert json.loads(message.partition(b"\r\n\r\n")[2])["outputs"][0]["data"] == [5.0, 6.0]


@given(datatype=st.sampled_from(sorted(numbers)), data=st.data())
def test_numbers_are_written_so_that_they_read_back_the_same(datatype: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(numbers[datatype], min_size=1, max_size=6))
    with np.errstate(over="ignore"):
        array = np.array(values, np.float64 if datatype in FLOATS else object).astype(NUMPY[datatype]).reshape(1, -1)
    reading = Reading(FIXED, output=datatype)
    reading.body(USUAL)
    ((_, message),) = reading.batch().answer([array])[0]
    head, _, text = message.partition(b"\r\n\r\n")
    assert head == f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\nContent-Type: application/json".encode()
    answer = json.loads(text)
    assert answer["id"] == "some"
    (output,) = answer["outputs"]
    assert {**output, "data": None} == {"name": "y", "datatype": datatype, "shape": list(array.shape), "data": None}
    finite = [value if value is not None else math.inf for value in output["data"]]
    if datatype in FLOATS:
        assert all(value is None or type(value) is float for value in output["data"])
        array = np.where(np.isfinite(array), array, np.array(math.inf, array.dtype))
    assert np.array(finite, array.dtype).reshape(array.shape).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "arrays", [[], [np.zeros((2, 1), np.float32)], [np.zeros((1, 1), np.float64)], [np.zeros((), np.float32)]]
)
def test_outputs_that_do_not_fit_are_refused(arrays: list[Array]) -> None:
    reading = Reading(FIXED)
    reading.body(USUAL)
    with pytest.raises(ValueError, match="expected"):
        reading.batch().answer(arrays)
