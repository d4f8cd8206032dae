"""Serving from a GPU as it is: graphs answer like the module, what cannot have one runs without, and nothing grows."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.serving.models.cnn import random_weights
from benchmarks.serving.models.encoder import WORDS, Encoder
from benchmarks.serving.models.recipes import Cnn as CnnRecipe
from benchmarks.serving.models.recipes import Encoder as EncoderRecipe
from modelmill.compress.codecs import bfloat16
from modelmill.serve.gpu.lane import Cuda
from modelmill.serve.gpu.model import COARSE, EAGER, GRAPH, GpuModel
from modelmill.serve.gpu.place import on_gpu
from modelmill.serve.gpu.trial import Trial
from modelmill.serve.instances import Instances, copies
from modelmill.serve.rows import Rows
from modelmill.serve.shapes import Shapes
from modelmill.signature import Signature, Tensor

DOUBLE = Signature(inputs=(Tensor(name="x", shape=(-1, 3)),), outputs=(Tensor(name="y", shape=(-1, 3)),))
MAX_ROWS = 8
Make = Callable[[int, int], Rows]


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.fail("there is no GPU here: this folder is for machines with one")
    yield


def encoder() -> tuple[nn.Module, Signature, Make]:
    torch.manual_seed(0)
    signature, random = EncoderRecipe({}).signature(), np.random.default_rng(0)

    def make(count: int, length: int) -> Rows:
        ids = random.integers(0, WORDS, size=(count, length), dtype=np.int64)
        return Shapes(signature).checked({"input_ids": ids, "attention_mask": np.ones_like(ids)})

    return bfloat16.compute(Encoder().eval().requires_grad_(False)), signature, make


def cnn() -> tuple[nn.Module, Signature, Make]:
    signature, random = CnnRecipe({}).signature(), np.random.default_rng(0)

    def make(count: int, length: int) -> Rows:
        return Shapes(signature).checked({"image": random.standard_normal((count, 3, 64, 64), dtype=np.float32)})

    return bfloat16.compute(random_weights().requires_grad_(False)), signature, make


def near(ours: Rows, expected: Rows) -> bool:
    pairs = [(ours.arrays[name], array) for name, array in expected.arrays.items()]
    return all(a.shape == b.shape and np.abs(a - b).max() <= COARSE * np.abs(b).max() for a, b in pairs)


@pytest.mark.parametrize("workload", [encoder, cnn])
def test_every_bucket_has_a_graph_that_answers_like_the_module(
    workload: Callable[[], tuple[nn.Module, Signature, Make]],
) -> None:
    module, signature, make = workload()
    served = on_gpu(module, signature=signature)
    served.prepare(MAX_ROWS)
    # Never prepared, it has none.
    plain = GpuModel(module, signature=signature, lane=Cuda(), trial=Trial())
    buckets = served.graphs.buckets
    assert served.graphs.states == {"ready": len(buckets)}
    assert len(buckets) == (40 if signature.inputs[0].pad is not None else 4)
    served.batches.clear()
    for bucket in buckets:
        for count, length in ((bucket.rows, bucket.length), (bucket.rows // 2 + 1, bucket.length - bucket.length // 8)):
            rows = make(count, length)
            assert near(served(rows), plain(rows)), bucket
    assert set(served.batches) == {GRAPH}
    assert set(plain.batches) == {EAGER}


def test_requests_of_different_lengths_get_their_own_answers_from_one_replay() -> None:
    module, signature, make = encoder()
    served = on_gpu(module, signature=signature)
    served.prepare(MAX_ROWS)
    many = [make(1, length) for length in (5, 17, 30, 31)]
    for rows, outputs in zip(many, served.together(many), strict=True):
        assert near(outputs, served(rows))


def test_a_module_that_waits_for_the_device_runs_without_a_graph_and_spoils_no_other() -> None:
    def waiting(x: torch.Tensor) -> torch.Tensor:
        return x * (2 if float(x.sum()) >= 0 else -2)

    served = ready(waiting)
    assert served.graphs.states == {"ready": 0, "raised": 4}
    assert served(row(1.0)).arrays["y"].tolist() == [[2, 2, 2]]
    assert served(row(-1.0)).arrays["y"].tolist() == [[2, 2, 2]]
    assert ready(lambda x: x * 2).graphs.states == {"ready": 4}


def test_out_of_memory_while_recording_gives_the_memory_back() -> None:
    def greedy(x: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing() and len(x) < MAX_ROWS:
            held.append(torch.empty(1 << 28, dtype=torch.uint8, device=x.device))
            torch.empty(1 << 50, dtype=torch.uint8, device=x.device)
        return x * 2

    held: list[torch.Tensor] = []
    before = torch.cuda.memory_reserved()
    served = ready(greedy)
    assert served.graphs.states == {"ready": 0, "memory": 4}
    held.clear()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + (32 << 20)
    assert served(row(1.0)).arrays["y"].tolist() == [[2, 2, 2]]


def test_nothing_is_allocated_by_a_thousand_batches() -> None:
    module, signature, make = encoder()
    served = on_gpu(module, signature=signature)
    served.prepare(MAX_ROWS)
    many = [make(count, length) for count in range(1, MAX_ROWS + 1) for length in (7, 30, 100)]
    for rows in many:
        served(rows)
    before = allocations()
    for number in range(1000):
        served(many[number % len(many)])
    assert allocations() == before


def test_instances_run_at_once_in_streams_of_their_own() -> None:
    module, signature, make = encoder()
    served = on_gpu(module, signature=signature)
    served.prepare(MAX_ROWS)
    many = [make(count % MAX_ROWS + 1, 8 + count) for count in range(40)]
    expected = [served(rows) for rows in many]
    models = copies(served, 3)
    assert all(one.graphs.states == served.graphs.states for one in models)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(Instances(models), many * 5))
    assert all(near(answer, rows) for answer, rows in zip(answers, expected * 5, strict=True))


def ready(module: Callable[..., Any]) -> GpuModel:
    served = GpuModel(module, signature=DOUBLE, lane=Cuda(), trial=Trial())
    served.prepare(MAX_ROWS)
    return served


def row(value: float) -> Rows:
    return Rows({"x": np.full((1, 3), value, np.float32)}, 1)


def allocations() -> tuple[int, int]:
    """Ever made on the device, and of page-locked memory."""
    return torch.cuda.memory_stats()["allocation.all.allocated"], torch.cuda.host_memory_stats()["active_requests.allocated"]
