"""A device for tests: plain memory, and recordings that remember what to call. It can be made to fail as a GPU does."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch

from modelmill.serve.gpu.lane import Replay

T = TypeVar("T")


@dataclass
class FakeLane:
    fails: Callable[[int], None] = lambda number: None
    """Told the number of each recording, from 0, before it is made."""
    lies: bool = False
    """Replays do nothing."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    pins: list[int] = field(default_factory=list)
    recorded: int = 0
    replayed: int = 0
    renewed: int = 0
    lanes: "list[FakeLane]" = field(default_factory=list)

    def beside(self) -> "FakeLane":
        self.lanes.append(FakeLane(fails=self.fails, lies=self.lies))
        return self.lanes[-1]

    def pinned(self, size: int) -> torch.Tensor:
        self.pins.append(size)
        # What is in new memory must not matter.
        return torch.full((size,), 0x5A, dtype=torch.uint8)

    def current(self) -> AbstractContextManager[object]:
        return nullcontext()

    def record(self, work: Callable[[], T]) -> tuple[Replay, T]:
        number, self.recorded = self.recorded, self.recorded + 1
        self.fails(number)
        result = work()
        # What is recorded returns the outputs.
        outputs, again = cast(list[torch.Tensor], result), cast(Callable[[], list[torch.Tensor]], work)

        def replay() -> None:
            self.replayed += 1
            if not self.lies:
                for there, now in zip(outputs, again(), strict=True):
                    there.copy_(now)

        return replay, result

    def renew(self) -> None:
        self.renewed += 1

    def wait(self) -> None:
        pass
