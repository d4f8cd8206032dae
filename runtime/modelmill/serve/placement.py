"""Where batches run: in the event loop while they are short, else in the executor's thread.

Waking the thread and the loop again, each with the interpreter's lock and cold caches, costs 100 us and more, and while
both want the lock either waits for the other. A loop that computes for a millisecond delays nobody by more than that.
In the loop a batch's time is its own. In the thread it is not: it includes waiting for the lock. So a batch whose
thread used little processor time is tried in the loop now and then, the seldomer the more often that was a mistake
(the module sleeps). Pure: it is told the times.
"""

LIMIT_SECONDS = 1e-3
STEP = 1.1
"""What is usual follows the median of the runs, up or down by this factor with each: a run that was interrupted counts
no more than any other, for however long."""
SHORTEST_SECONDS = 1e-6
PATIENCE, MOST_PATIENCE = 64, 1 << 14
"""Batches in the thread before one is tried in the loop, at first and at most."""


class Placement:
    def __init__(self, seconds: float, *, limit_seconds: float = LIMIT_SECONDS) -> None:
        """`seconds` is what a batch has taken so far; with a limit of 0 nothing ever runs in the loop."""
        self._limit = limit_seconds
        self._usual = self._processor = max(seconds, SHORTEST_SECONDS)
        self._patience = PATIENCE
        self._since = 0
        self._trial = False

    @property
    def short(self) -> bool:
        """Batches run in the loop, as a rule."""
        return self._usual < self._limit

    def in_loop(self) -> bool:
        """Where the next batch is to run."""
        if self.short:
            return True
        self._trial = self._since >= self._patience and self._processor < self._limit
        return self._trial

    def ran(self, seconds: float, *, processor_seconds: float) -> None:
        """How long that batch took, by the clock and by its thread's own processor time."""
        if self._trial:
            self._judge(seconds)
        elif self._usual < self._limit:
            self._usual = _towards(seconds, self._usual)
        else:
            self._since += 1
            self._processor = _towards(processor_seconds, self._processor)

    def _judge(self, seconds: float) -> None:
        self._trial, self._since = False, 0
        if seconds < self._limit:
            self._usual, self._patience = seconds, PATIENCE
        else:
            self._patience = min(2 * self._patience, MOST_PATIENCE)


def _towards(seconds: float, usual: float) -> float:
    return max(usual * STEP if seconds > usual else usual / STEP, SHORTEST_SECONDS)
