"""The limit on a GPU: CUDA graphs of the module that our server runs, replayed in a loop without any server.

    python -m benchmarks.serving.graph_loop REGISTRY MODEL WORKLOAD

Lines and rows are those of `benchmarks.serving.limit`. Each shape of batch has a graph of its own, so nothing is padded beyond
the longest of its batch. For each batch the inputs are copied from page-locked memory, the answers back to it, and waited for.
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks.serving.limit import answer, batches, in_order, loaded, passes_a_second
from benchmarks.serving.workloads import Row
from modelmill.serve.gpu.graphs import Graph, recorded
from modelmill.serve.gpu.lane import Lane
from modelmill.serve.gpu.model import GpuModel
from modelmill.serve.gpu.staging import Staging
from modelmill.serve.rows import Rows


class Loop:
    def __init__(self, model: GpuModel, lane: Lane) -> None:
        self._model = model
        self._lane = lane
        self._graphs: dict[tuple[torch.Size, ...], Graph] = {}

    def rows_a_second(self, rows: list[Row], *, batch: int, seconds: float) -> float:
        with torch.inference_mode(), self._lane.current():
            return len(rows) * passes_a_second([self.prepared(one) for one in batches(rows, batch)], seconds=seconds)

    def prepared(self, rows: Rows) -> Callable[[], list[torch.Tensor]]:
        """Runs them; the answers are in the same memory each time."""
        staging = Staging(self._model.signature, self._lane.pinned)
        _, given = staging.join([rows])
        shapes = tuple(one.shape for one in given)
        if shapes not in self._graphs:
            self._graphs[shapes] = recorded(given, forward=self._model.forward, lane=self._lane)
        graph = self._graphs[shapes]

        def run() -> list[torch.Tensor]:
            for there, here in zip(graph.inputs, given, strict=True):
                there.copy_(here, non_blocking=True)
            graph.replay()
            fetched = staging.fetch(graph.outputs)
            self._lane.wait()
            return fetched

        return run


def main() -> None:
    from modelmill.serve.gpu.lane import Cuda

    parser = argparse.ArgumentParser()
    for name in ("registry", "model", "workload"):
        parser.add_argument(name)
    arguments = parser.parse_args()
    model = loaded(arguments.registry, arguments.model)
    assert isinstance(model, GpuModel), "there is no GPU here"
    loop, rows = Loop(model, Cuda()), in_order(arguments.workload)
    answer(lambda batch, seconds: loop.rows_a_second(rows, batch=batch, seconds=seconds))


if __name__ == "__main__":
    main()
