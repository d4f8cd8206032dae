"""One execution: several requests' rows through the model at once, and halves of them when memory does not suffice."""

import logging
from collections.abc import Callable, Sequence

import torch

from modelmill.serve.rows import Rows, stacked
from modelmill.serve.shapes import Shapes
from modelmill.signature import Signature

log = logging.getLogger(__name__)


class Runner:
    def __init__(
        self,
        model: Callable[[Rows], Rows],
        *,
        signature: Signature,
        together: Callable[[Sequence[Rows]], list[Rows]] | None = None,
    ) -> None:
        """`together`: where the model joins several requests' rows and parts their outputs better by itself."""
        self._model = model
        self._shapes = Shapes(signature)
        self._run = together or self._joined
        self.most_rows: int | None = None
        """What memory sufficed for when it ran out once, in rows; None: it never did."""
        self.most_elements: int | None = None
        """The same for rows that are padded: rows times length."""

    def __call__(self, many: Sequence[Rows]) -> list[Rows]:
        """The outputs of each; all have equal keys."""
        try:
            return self._run(many)
        except Exception as error:
            rows = sum(each.count for each in many)
            if not out_of_memory(error) or rows == 1:
                raise
            self._remember(rows, longest=max(each.length for each in many))
        # Outside the handler: the exception's traceback keeps the failed run's tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(many) == 1:
            halves = many[0].split((many[0].count + 1) // 2)
            return [stacked([half for part in halves for half in self([part])])]
        middle = len(many) // 2
        return self(many[:middle]) + self(many[middle:])

    def _joined(self, many: Sequence[Rows]) -> list[Rows]:
        joined = self._shapes.join(many)
        return self._shapes.part(self._model(joined), many, joined=joined)

    def _remember(self, rows: int, *, longest: int) -> None:
        log.warning("out of memory with %d rows of length %d: running halves, and smaller batches from now on", rows, longest)
        if longest:
            self.most_elements = min(self.most_elements or rows * longest, max(1, rows * longest // 2))
        else:
            self.most_rows = min(self.most_rows or rows, max(1, rows // 2))


def out_of_memory(error: Exception) -> bool:
    # On CPU torch raises a plain RuntimeError whose text is the allocator's.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
