"""What is asked of a GPU, for one instance of a model: all its work is one stream, in the order of the calls.

Little, and behind a protocol, so that everything around it is tested where there is no GPU.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")
Replay = Callable[[], None]


class Lane(Protocol):
    device: torch.device

    def beside(self) -> "Lane":
        """Another one on the same device."""

    def pinned(self, size: int) -> torch.Tensor:
        """uint8 [size] of host memory that the device copies from and to while the processor does something else."""

    def current(self) -> AbstractContextManager[object]:
        """Inside, in this thread, torch's work is this lane's."""

    def record(self, work: Callable[[], T]) -> tuple[Replay, T]:
        """Calls `work`, which is recorded instead of done. The replay does it again on the same memory: what `work`
        returned has the results. Its temporary memory is shared with that of the lane's other recordings. Only `current`.
        Raises what `work` does, or that something in it cannot be recorded: then call `renew`."""

    def renew(self) -> None:
        """After a recording has failed. Gives back what memory nothing refers to any more."""

    def wait(self) -> None:
        """Until all work is done; the thread sleeps without the interpreter's lock. Only `current`."""


class Cuda:
    """The `Lane` of a real device."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        # Its streams do not wait for the default one, which may still be copying the weights.
        torch.cuda.synchronize(self.device)
        self._done = torch.cuda.Event(blocking=True)
        self._begin()

    def _begin(self) -> None:
        self._stream = torch.cuda.Stream(self.device)
        self._pool = torch.cuda.graph_pool_handle()

    def beside(self) -> "Cuda":
        return Cuda()

    def pinned(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def current(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)

    def record(self, work: Callable[[], T]) -> tuple[Replay, T]:
        graph = torch.cuda.CUDAGraph()
        # Other threads go on asking CUDA, such as for metrics.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = work()
        return graph.replay, result

    def renew(self) -> None:
        # What an invalid capture leaves in a stream or a pool is nobody's promise.
        self._begin()
        torch.cuda.empty_cache()

    def wait(self) -> None:
        self._done.record()
        self._done.synchronize()
