"""How sparse a model is to be while it trains: a sparsity for each step, from `begin` on, full at `end`.

    Constant: s_t = target                                         for t >= begin
    Linear:   s_t = start + (target - start) * p                   p = (t - begin) / (end - begin), within [0, 1]
    Cubic:    s_t = target + (start - target) * (1 - p)^3

Before `begin` it is 0. Cubic prunes fast while much is redundant, and slowly towards the end.
Source: Zhu, Gupta 2017, "To prune, or not to prune: exploring the efficacy of pruning for model compression".
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from modelmill.compress.errors import CompressionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    target: float
    begin: int = 0

    def __post_init__(self) -> None:
        _check(self.target, self.begin, self.begin + 1, start=0.0)

    def sparsity(self, step: int) -> float:
        return self.target if step >= self.begin else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ramp(ABC):
    target: float
    end: int
    begin: int = 0
    start: float = 0.0

    def __post_init__(self) -> None:
        _check(self.target, self.begin, self.end, start=self.start)

    def sparsity(self, step: int) -> float:
        if step < self.begin:
            return 0.0
        # Not the formula at its end: rounding must not leave the last step beside the target.
        return self.target if step >= self.end else self._at((step - self.begin) / (self.end - self.begin))

    @abstractmethod
    def _at(self, part: float) -> float:
        """`part` of the way from begin to end."""


class Linear(_Ramp):
    __slots__ = ()

    def _at(self, part: float) -> float:
        return self.start + (self.target - self.start) * part


class Cubic(_Ramp):
    __slots__ = ()

    def _at(self, part: float) -> float:
        return self.target + (self.start - self.target) * (1 - part) ** 3


Schedule = Constant | Linear | Cubic


def _check(target: float, begin: int, end: int, *, start: float) -> None:
    for name, value in (("target", target), ("start", start)):
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise CompressionError(f"schedule: {name} {value} must be from 0 to 1")
    if start > target:
        raise CompressionError(f"schedule: start {start} must not be above target {target}; what is pruned stays pruned")
    if not 0 <= begin < end:
        raise CompressionError(f"schedule: begin {begin} must be at least 0, and before end {end}")
