"""Serving on a GPU, without one: buckets, padding, cutting, proof, fallback and what is counted. `tests/gpu` has the device."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from torch import nn

from benchmarks.serving.graph_loop import Loop
from modelmill.datatypes import NUMPY
from modelmill.serve.gpu.buckets import LENGTHS, Bucket, Buckets
from modelmill.serve.gpu.model import EAGER, GRAPH, GpuModel
from modelmill.serve.gpu.series import GraphSeries
from modelmill.serve.gpu.trial import Trial, try_out
from modelmill.serve.model import WrongOutput
from modelmill.serve.rows import Rows
from modelmill.serve.runner import Runner
from modelmill.serve.shapes import Shapes
from modelmill.serve.warmup import warm_up
from modelmill.signature import Signature, Tensor
from tests.unit.serve.lanes import FakeLane
from tests.unit.serve.support import DOUBLE, MIXED, Running, double, mixed, running
from tests.unit.serve.test_ragged import ENCODER, encoder

Many = Sequence[Rows]
TRIAL = Trial(longest=128, whole=1)


def model(
    module: Callable[..., Any] = double,
    signature: Signature = DOUBLE,
    *,
    lane: FakeLane | None = None,
    trial: Trial = TRIAL,
    max_rows: int = 4,
    **options: Any,
) -> GpuModel:
    made = GpuModel(module, signature=signature, lane=lane or FakeLane(), trial=trial, **options)
    made.prepare(max_rows)
    made.batches.clear()
    return made


def doubled(count: int, start: float = 0.0) -> Rows:
    values = np.arange(start, start + 3 * count, dtype=np.float32).reshape(count, 3)
    return Shapes(DOUBLE).checked({"x": values})


def tokens(*rows: Sequence[int]) -> Rows:
    ids = np.array(rows, np.int64)
    return Shapes(ENCODER).checked({"ids": ids, "mask": np.ones_like(ids)})


def test_rows_go_up_in_powers_of_two_to_the_largest_batch() -> None:
    fixed = Buckets(DOUBLE, max_rows=12, longest=0)
    assert fixed.all() == [Bucket(12), Bucket(8), Bucket(4), Bucket(2), Bucket(1)]
    assert [fixed.of([doubled(count)]) for count in (1, 3, 8, 9, 12)] == [Bucket(rows) for rows in (1, 4, 8, 12, 12)]
    assert fixed.of([doubled(13)]) is None


def test_lengths_go_up_to_what_the_module_takes() -> None:
    buckets = Buckets(ENCODER, max_rows=32, longest=48)
    assert {bucket.length for bucket in buckets.all()} == {16, 32, 48}
    assert buckets.of([tokens([1] * 3), tokens([1] * 17)]) == Bucket(2, 32)
    assert buckets.of([tokens([1] * 49)]) is None
    assert len(Buckets(ENCODER, max_rows=32, longest=LENGTHS[-1]).all()) == 60


def test_lengths_that_nobody_may_pad_and_inputs_of_different_lengths_have_no_bucket() -> None:
    assert Buckets(MIXED, max_rows=4, longest=64).all() == []
    uneven = Rows({"ids": np.zeros((1, 3), np.int64), "mask": np.zeros((1, 4), np.int64)}, 1)
    assert Buckets(ENCODER, max_rows=4, longest=64).of([uneven]) is None


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 60)), min_size=1, max_size=4))
def test_padded_up_to_a_bucket_every_request_gets_what_it_would_alone(sizes: list[tuple[int, int]]) -> None:
    served = ENCODING
    many = [tokens(*[[row + at + 1 for at in range(length)] for row in range(rows)]) for rows, length in sizes]
    for rows, outputs in zip(many, served.together(many), strict=True):
        mean, squares = encoder(*(torch.from_numpy(rows.arrays[name]) for name in ("ids", "mask")))
        assert outputs.arrays["mean"] == pytest.approx(mean.numpy(), rel=1e-6)
        assert outputs.arrays["squares"].tolist() == squares.tolist()


ENCODING = model(encoder, ENCODER, max_rows=8)


def test_what_has_a_bucket_is_replayed_and_the_rest_runs_without_a_graph() -> None:
    lane = FakeLane()
    served = model(lane=lane)
    lane.replayed = 0
    for count in (1, 2, 3, 4, 5):
        assert served(doubled(count)).arrays["y"].tolist() == (doubled(count).arrays["x"] * 2).tolist()
    assert lane.replayed == 4
    assert served.batches == {GRAPH: 4, EAGER: 1}


def test_answers_stay_when_the_next_batch_arrives_in_the_same_memory() -> None:
    served = model()
    first, second = served(doubled(2)), served(doubled(2, 100.0))
    assert first.arrays["y"].tolist() == (doubled(2).arrays["x"] * 2).tolist()
    assert second.arrays["y"][0, 0] == 200.0


def test_page_locked_memory_is_taken_once() -> None:
    lane = FakeLane()
    served = model(lane=lane)
    before = list(lane.pins)
    for count in (4, 1, 3, 2) * 5:
        served(doubled(count))
    assert lane.pins == before


def test_every_datatype_comes_back_as_the_signature_says() -> None:
    names = ("BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64")
    for datatype in names:
        tensors = [Tensor(name=name, datatype=datatype, shape=(-1, 2)) for name in "xy"]
        signature = Signature(inputs=(tensors[0],), outputs=(tensors[1],))
        served = model(lambda x: x.clone(), signature)
        given = Shapes(signature).checked({"x": np.array([[0, 1], [1, 1], [1, 0]]).astype(NUMPY[datatype])})
        assert served(given).arrays["y"].tobytes() == given.arrays["x"].tobytes()
        assert served(given).arrays["y"].dtype == given.arrays["x"].dtype
        assert served.batches == {GRAPH: 2}


def test_inputs_that_are_neither_aligned_nor_contiguous_are_staged_as_they_are() -> None:
    unaligned = np.frombuffer(b"\0" + np.arange(6, dtype="<f4").tobytes(), dtype=np.uint8)[1:].view("<f4").reshape(2, 3)
    assert model()(Rows({"x": unaligned}, 2)).arrays["y"].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert model()(Rows({"x": unaligned[:, ::-1]}, 2)).arrays["y"].tolist() == [[4, 2, 0], [10, 8, 6]]


def test_outputs_by_name_in_any_order_are_sorted_out() -> None:
    served = model(lambda a, k: dict(zip(("next", "sum"), reversed(mixed(a, k)), strict=True)), MIXED)
    outputs = served(Rows({"a": np.ones((2, 3), np.float32), "k": np.array([1, 2])}, 2))
    assert {name: array.tolist() for name, array in outputs.arrays.items()} == {"sum": [3, 6], "next": [2, 3]}


def test_an_output_without_the_batch_is_told_as_on_a_cpu() -> None:
    with pytest.raises(WrongOutput, match=r"output 'y': shape \[3\] for 2 rows; the first dimension must be the batch"):
        model(lambda x: x[0])(doubled(2))


# What can be wrong with a recording.


def raising(error: Exception, *, at: int) -> Callable[[int], None]:
    def fails(number: int) -> None:
        if number == at:
            try:
                raise error
            finally:
                # As the end of a broken capture does.
                raise RuntimeError("operation failed due to a previous error during capture")

    return fails


def test_a_module_that_cannot_be_recorded_runs_without_graphs_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    lane = FakeLane(fails=raising(RuntimeError("operation not permitted when stream is capturing"), at=0))
    served = model(lane=lane)
    assert served.graphs.states == {"ready": 0, "raised": 3}
    assert lane.recorded == lane.renewed == 1
    assert "no CUDA graph for Bucket(rows=4, length=0): RuntimeError: operation not permitted" in caplog.text
    assert served(doubled(3)).arrays["y"][2, 2] == 16
    assert served.batches == {EAGER: 1}


def test_a_recording_that_fails_among_others_costs_its_own_bucket_only() -> None:
    lane = FakeLane(fails=raising(RuntimeError("no"), at=1))
    served = model(lane=lane)
    assert served.graphs.states == {"ready": 2, "raised": 1}
    for count in (4, 2, 1):
        served(doubled(count))
    assert served.batches == {GRAPH: 2, EAGER: 1}


def test_a_graph_that_answers_otherwise_is_never_used(caplog: pytest.LogCaptureFixture) -> None:
    served = model(lane=FakeLane(lies=True))
    assert served.graphs.states == {"ready": 0, "differs": 3}
    assert "for 4 rows of length 0, output 'y': off by" in caplog.text
    assert served(doubled(1)).arrays["y"].tolist() == [[0, 2, 4]]


def test_rows_that_depend_on_each_other_have_no_graph() -> None:
    # The rows that fill the bucket would count.
    assert model(lambda x: x / x.sum()).graphs.states == {"ready": 0, "differs": 3}


def test_a_module_that_looks_at_what_was_padded_has_no_graph() -> None:
    def forgetful(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (ids + 1).float().mean(dim=1) / ids.shape[1], ids * ids

    assert model(forgetful, ENCODER).graphs.states["ready"] == 0


def test_an_output_whose_length_is_not_that_of_the_inputs_has_no_graph() -> None:
    def halved(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return encoder(ids, mask)[0], ids[:, ::2]

    served = model(halved, ENCODER)
    assert served.graphs.states["ready"] == 0
    assert served(tokens([1] * 10)).arrays["squares"].shape == (1, 5)


def test_out_of_memory_gives_all_graphs_back() -> None:
    lane = FakeLane(fails=raising(torch.OutOfMemoryError("CUDA out of memory"), at=2))
    served = model(lane=lane)
    assert served.graphs.states == {"ready": 0, "memory": 3}
    assert lane.renewed == 1
    assert served(doubled(4)).arrays["y"][3, 2] == 22
    assert served.batches == {EAGER: 1}


def test_recording_ends_when_its_time_is_over() -> None:
    assert model(seconds=0.0).graphs.states == {"ready": 0, "late": 3}


def test_graphs_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMILL_GRAPHS", "0")
    lane = FakeLane()
    served = model(lane=lane)
    assert served(doubled(1)).arrays["y"].tolist() == [[0, 2, 4]]
    assert lane.recorded == 0


def test_another_instance_has_a_lane_and_graphs_of_its_own() -> None:
    lane = FakeLane(fails=raising(RuntimeError("no"), at=1))
    served = model(nn.Linear(3, 3).requires_grad_(False), lane=lane)
    # Not again what could not be recorded.
    lane.fails = raising(RuntimeError("never"), at=100)
    copy = served.copy()
    assert copy.graphs.buckets == served.graphs.buckets == [Bucket(4), Bucket(1)]
    lane.replayed = lane.lanes[0].replayed = 0
    assert copy(doubled(4)).arrays["y"].tolist() == served(doubled(4)).arrays["y"].tolist()
    assert (lane.replayed, lane.lanes[0].replayed) == (1, 1)


# What is found out on the CPU.


class Positions(nn.Module):
    def __init__(self, longest: int, words: int = 10) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(words, 4), nn.Embedding(longest, 4)
        self.calls = 0

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls += 1
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1]))
        return (x.sum(dim=2) * mask).sum(dim=1), ids * ids


@pytest.mark.parametrize(("positions", "longest"), [(512, 512), (100, 96), (500, 384), (16, 16), (8, 0)])
def test_no_row_is_padded_beyond_a_modules_positions(positions: int, longest: int) -> None:
    module = Positions(positions)
    assert try_out(module, ENCODER) == Trial(longest=longest, whole=1 if longest else 0)
    assert module.calls == 0


def test_whole_numbers_that_are_out_of_range_are_not_tried_on_the_device() -> None:
    assert try_out(Positions(64, words=1), ENCODER) == Trial(longest=64, whole=0)


def test_lengths_that_take_long_on_a_cpu_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmill.serve.gpu.trial.ENOUGH_SECONDS", 0.0)
    assert try_out(Positions(512), ENCODER).longest == LENGTHS[0]


# Within the server.


@contextmanager
def served_on(lane: FakeLane, module: Callable[..., Any], signature: Signature, **changes: Any) -> Iterator[Running]:
    def load(service: Any, *, phases: Any, into: Any) -> GpuModel:
        return GpuModel(module, signature=signature, lane=lane, trial=TRIAL)

    with running(loader=load, **changes) as server:
        yield server


def test_a_server_batches_clients_into_graphs_and_counts_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lane = FakeLane()
    bodies = [[{"ids": [i + 1] * (i % 40 + 1), "mask": [1] * (i % 40 + 1)}] for i in range(60)]
    with served_on(lane, encoder, ENCODER, batcher_rows=4) as server, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(server.predict, bodies))
        executions, replayed = server.metric("executions_total"), server.metric("device_batches_total", way="graph")
    for (body,), (status, answer) in zip(bodies, answers, strict=True):
        assert status == 200, answer
        assert answer["predictions"][0]["squares"] == [value * value for value in body["ids"]]
    assert "CUDA graphs for 18 shapes of batches: 18 ready" in caplog.text
    assert 0 < executions <= replayed


def test_several_instances_have_their_own_lanes_within_a_server() -> None:
    lane = FakeLane()
    with served_on(lane, double, DOUBLE, instances=3) as server, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda i: server.predict([[i, 0, 0]]), range(30)))
    assert [answer["predictions"][0][0] for _, answer in answers] == [2.0 * i for i in range(30)]
    assert len(lane.lanes) == 2


def test_a_batch_too_large_for_memory_runs_in_halves() -> None:
    def cramped(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x * 2

    served = model(cramped, max_rows=8)
    run = Runner(served, signature=DOUBLE, together=served.together)
    parts = run([doubled(3), doubled(2)])
    assert [part.arrays["y"].tolist() for part in parts] == [(doubled(n).arrays["x"] * 2).tolist() for n in (3, 2)]


def test_series_add_up_over_instances() -> None:
    registry = CollectorRegistry()
    served = model()
    GraphSeries([served, served.copy()], registry=registry)
    served(doubled(1))
    assert registry.get_sample_value("modelmill_serve_graphs", {"state": "ready"}) == 6
    assert registry.get_sample_value("modelmill_serve_device_batches_total", {"way": "graph"}) == 1


def test_a_warm_up_prepares_the_largest_batch_that_is_allowed() -> None:
    served = GpuModel(double, signature=DOUBLE, lane=FakeLane(), trial=TRIAL)
    warm_up(served, max_rows=6, cpus=1)
    assert served.graphs.buckets == [Bucket(6), Bucket(4), Bucket(2), Bucket(1)]


def test_the_loop_that_the_benchmark_compares_with_computes_what_the_server_does() -> None:
    served = GpuModel(encoder, signature=ENCODER, lane=FakeLane(), trial=TRIAL)
    lane = FakeLane()
    loop = Loop(served, lane)
    rows = [{name: array[:, :length] for name, array in tokens([3] * 9).arrays.items()} for length in (4, 4, 4, 9)]
    assert loop.rows_a_second(rows, batch=2, seconds=0.01) > 0
    assert lane.recorded == 2
    mean, squares = loop.prepared(tokens([1, 2, 3]))()
    assert (mean.tolist(), squares.tolist()) == ([2.0], [[1, 4, 9]])
