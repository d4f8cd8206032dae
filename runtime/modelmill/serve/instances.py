"""Copies of a model, so that several batches run at once. Their weights are the same memory; what a forward pass keeps is not."""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, Self, TypeVar


class Copied(Protocol):
    def copy(self) -> Self: ...


M = TypeVar("M", bound=Copied)
Given = TypeVar("Given")
Made = TypeVar("Made")


def copies(model: M, count: int) -> list[M]:
    """The model is the first of them."""
    return [model, *(model.copy() for _ in range(count - 1))]


class Instances(Generic[Given, Made]):
    """Call it in as many threads at once as there are instances; each call has one to itself."""

    def __init__(self, calls: Sequence[Callable[[Given], Made]]) -> None:
        # Popping and appending are atomic.
        self._idle = list(calls)

    def __call__(self, given: Given) -> Made:
        call = self._idle.pop()
        try:
            return call(given)
        finally:
            self._idle.append(call)
