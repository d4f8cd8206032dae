"""A torch module on a GPU: batches staged in page-locked memory, one stream an instance, and graphs where they are right.

A batch that has a bucket is padded up to it: to its length with the signature's value, and to its number of rows by what the
rows' places held before, which costs nothing. Rows do not depend on each other (that is what batching rests on), and the
places' answers are never fetched. Whether both is so is compared before a graph is used.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from modelmill.compress.graph.compare import difference
from modelmill.compress.graph.tensors import tensors_of
from modelmill.serve.gpu.buckets import Bucket, Buckets
from modelmill.serve.gpu.graphs import Graph, Graphs
from modelmill.serve.gpu.lane import Lane
from modelmill.serve.gpu.staging import Staging, numbers
from modelmill.serve.gpu.trial import Trial, made_up
from modelmill.serve.model import TorchModel, wrong_output
from modelmill.serve.rows import Rows
from modelmill.serve.shapes import Shapes
from modelmill.signature import Signature

log = logging.getLogger(__name__)
ENVIRONMENT = "MODELMILL_GRAPHS"
"""Set to 0, nothing is recorded."""
RECORD_SECONDS = 10.0
"""That a pod may take longer to become ready."""
FINE, COARSE = 0.005, 0.05
"""Of an output's largest value: what rounding may make of it in other kernels, in float32 (cuDNN's TF32 has 10 bits) and where
weights or activations have fewer bits. A graph that is wrong is off by far more."""
GRAPH, EAGER = "graph", "eager"


class GpuModel(TorchModel):
    def __init__(
        self,
        module: Callable[..., Any],
        *,
        signature: Signature,
        lane: Lane,
        trial: Trial,
        ways: Mapping[str, int] | None = None,
        seconds: float = RECORD_SECONDS,
    ) -> None:
        """`module` is on the lane's device. `seconds` may be spent on recording, in each instance."""
        super().__init__(module, signature=signature, device=lane.device, ways=ways)
        self._lane = lane
        self._trial = trial
        self._seconds = seconds
        self._shapes = Shapes(signature)
        self._staging = Staging(signature, lane.pinned)
        self._buckets = Buckets(signature, max_rows=1, longest=0)
        self.graphs = Graphs(lane, self.forward)
        self.batches: Counter[str] = Counter()
        """That were replayed, and that ran without a graph."""

    def copy(self) -> "GpuModel":
        """With graphs of its own, of the same buckets: it takes as long as preparing did."""
        copied = GpuModel(
            self._cloned(), signature=self.signature, lane=self._lane.beside(), trial=self._trial, seconds=self._seconds
        )
        copied._buckets = self._buckets
        copied._record(self.graphs.buckets)
        return copied

    def prepare(self, max_rows: int) -> None:
        self._buckets = Buckets(self.signature, max_rows=max_rows, longest=self._trial.longest)
        if os.environ.get(ENVIRONMENT) == "0":
            log.info("no CUDA graphs: %s is 0", ENVIRONMENT)
        else:
            self._record(self._buckets.all())

    def __call__(self, rows: Rows) -> Rows:
        (outputs,) = self.together([rows])
        return outputs

    def together(self, many: Sequence[Rows]) -> list[Rows]:
        """The outputs of each; all have equal keys. They are joined where the device copies from, and parted."""
        with torch.inference_mode(), self._lane.current():
            bucket = self._buckets.of(many)
            graph = self.graphs.get(bucket)
            self.batches[GRAPH if graph else EAGER] += 1
            return self._replayed(bucket, graph, many) if graph and bucket else self._eager(many)

    def _eager(self, many: Sequence[Rows]) -> list[Rows]:
        joined, staged = self._staging.join(many)
        return self._answers(self.forward([one.to(self.device, non_blocking=True) for one in staged]), many, joined)

    def _replayed(self, bucket: Bucket, graph: Graph, many: Sequence[Rows]) -> list[Rows]:
        joined, staged = self._staging.join(many, length=bucket.length)
        for there, here in zip(graph.inputs, staged, strict=True):
            there[: joined.count].copy_(here, non_blocking=True)
        graph.replay()
        return self._answers([output[: joined.count] for output in graph.outputs], many, joined)

    def _answers(self, outputs: Sequence[torch.Tensor], many: Sequence[Rows], joined: Rows) -> list[Rows]:
        fetched = self._staging.fetch(outputs)
        self._lane.wait()
        # Copied: answers are written to clients while the next batch arrives in the same memory.
        arrays = {name: numbers(one).copy() for (name, _), one in zip(self._outputs, fetched, strict=True)}
        return self._shapes.part(Rows(arrays, joined.count), many, joined=joined)

    def forward(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """On the device: outputs in the signature's order and datatypes."""
        named, count = self._named(self._module(*inputs)), inputs[0].shape[0]
        outputs = []
        for name, dtype in self._outputs:
            value = named.get(name)
            if not isinstance(value, torch.Tensor) or not value.ndim or value.shape[0] != count:
                raise wrong_output(name, value, count)
            outputs.append(value.to(self.device, dtype).contiguous())
        return outputs

    def _record(self, buckets: Sequence[Bucket]) -> None:
        with torch.inference_mode():
            self.graphs.record(buckets, example=self._example, objection=self._objection, seconds=self._seconds)

    def _made_up(self, *, count: int, length: int, seed: int) -> Rows:
        return made_up(self.signature, count=count, length=length, whole=self._trial.whole if seed else 0, seed=seed)

    def _example(self, bucket: Bucket) -> list[torch.Tensor]:
        return self._staging.join([self._made_up(count=bucket.rows, length=bucket.length, seed=0)])[1]

    def _objection(self, bucket: Bucket, graph: Graph) -> str | None:
        """Against other rows than it was recorded with: as many as it holds, and fewer and shorter ones."""
        for count, length in ((bucket.rows, bucket.length), (max(1, bucket.rows - 1), max(0, bucket.length - 3))):
            rows = [self._made_up(count=count, length=length, seed=1)]
            (ours,), (expected,) = self._replayed(bucket, graph, rows), self._eager(rows)
            for name, dtype in self._outputs:
                given = (torch.from_numpy(answers.arrays[name]).view(dtype) for answers in (ours, expected))
                if found := difference(*given, tolerance=self._tolerance()):
                    return f"for {count} rows of length {length}, output {name!r}: {found}"
        return None

    def _tolerance(self) -> float:
        module = self._module
        return COARSE if isinstance(module, nn.Module) and any(one.itemsize < 4 for one in tensors_of(module)) else FINE
