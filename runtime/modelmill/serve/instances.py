"""Copies of a model, so that several batches run at once. Their weights are the same memory; what a forward pass keeps is not."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from modelmill.serve.rows import Rows

if TYPE_CHECKING:
    from modelmill.serve.model import TorchModel
    from modelmill.serve.processing import ProcessedModel


class Instances:
    """Call it in as many threads at once as there are instances; each call has one to itself."""

    def __init__(self, model: "TorchModel | ProcessedModel", count: int) -> None:
        # Popping and appending are atomic.
        self._idle: list[Callable[[Rows], Rows]] = [model, *(model.copy() for _ in range(count - 1))]

    def __call__(self, rows: Rows) -> Rows:
        model = self._idle.pop()
        try:
            return model(rows)
        finally:
            self._idle.append(model)
