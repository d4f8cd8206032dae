"""How many pods a service needs: Knative's concurrency algorithm (KPA), as arithmetic on samples.

Every tick the engine adds one sample, the concurrency summed over the service's pods, and asks for a decision. Two
averages are kept: over the stable window, and over the panic window (a tenth of it). When the panic average asks for
twice the ready pods, the autoscaler panics: it follows the larger of both, and never goes down, until a whole stable
window has passed without that. No sample means no decision, not zero.

Source: knative/serving pkg/autoscaler/scaling/autoscaler.go and its config defaults, which the constants repeat.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from modelmill_operator.actions import ScalingDecision

TARGET_UTILIZATION = 0.7
PANIC_WINDOW_FRACTION = 0.1
PANIC_THRESHOLD = 2.0
MAX_SCALE_UP_RATE = 1000.0
MAX_SCALE_DOWN_RATE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the resource says about its scaling."""

    min_replicas: int
    max_replicas: int
    target: float
    """Wanted concurrency of a pod; 70 % of it is aimed at, so that a burst finds room."""
    stable_window_seconds: float = 60.0
    scale_down_delay_seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class Autoscaler:
    """The memory of one service's scaling. Times are seconds of any monotonic clock."""

    limits: Limits
    _samples: deque[tuple[float, float]] = field(default_factory=deque)
    _recent: deque[tuple[float, int]] = field(default_factory=deque)
    _panic_since: float | None = None
    _panic_pods: int = 0
    _started: bool = False

    def observe(self, now: float, *, concurrency: float) -> None:
        """Adds the concurrency summed over all pods, averaged since the sample before."""
        self._samples.append((now, concurrency))
        while self._samples[0][0] <= now - self.limits.stable_window_seconds:
            self._samples.popleft()

    def decide(self, now: float, *, ready: int) -> ScalingDecision | None:
        """What is wanted now, from the samples and the pods that are ready; None without a sample in the stable window."""
        stable = self._average(now, window=self.limits.stable_window_seconds)
        panic = self._average(now, window=self.limits.stable_window_seconds * PANIC_WINDOW_FRACTION)
        if stable is None:
            return None
        panic = stable if panic is None else panic
        ready = max(1, ready)
        self._start(now, ready=ready)
        target = max(0.01, self.limits.target * TARGET_UTILIZATION)
        wanted_stable, wanted_panic = (self._bounded(average / target, ready=ready) for average in (stable, panic))
        self._panic(now, over=math.ceil(panic / target) / ready >= PANIC_THRESHOLD)
        wanted = wanted_stable
        if self._panic_since is not None:
            wanted = self._panic_pods = max(self._panic_pods, wanted_stable, wanted_panic)
        wanted = self._delayed(now, wanted)
        replicas = min(max(wanted, self.limits.min_replicas), self.limits.max_replicas)
        return ScalingDecision(
            replicas=replicas,
            stable_concurrency=round(stable, 2),
            panic_concurrency=round(panic, 2),
            panicking=self._panic_since is not None,
            reason=self._reason(wanted, replicas),
        )

    def _average(self, now: float, *, window: float) -> float | None:
        values = [value for at, value in self._samples if at > now - window]
        return sum(values) / len(values) if values else None

    def _start(self, now: float, *, ready: int) -> None:
        # An autoscaler that has just started knows nothing of the load that made these pods: it must not take them away.
        if not self._started and ready > 1:
            self._panic_since, self._panic_pods = now, ready
        self._started = True

    def _bounded(self, pods: float, *, ready: int) -> int:
        up = math.ceil(MAX_SCALE_UP_RATE * ready)
        down = math.floor(ready / MAX_SCALE_DOWN_RATE)
        return min(max(math.ceil(pods), down), up)

    def _panic(self, now: float, *, over: bool) -> None:
        if over:
            self._panic_since = now
        elif self._panic_since is not None and now > self._panic_since + self.limits.stable_window_seconds:
            self._panic_since, self._panic_pods = None, 0

    def _delayed(self, now: float, wanted: int) -> int:
        self._recent.append((now, wanted))
        while self._recent[0][0] < now - self.limits.scale_down_delay_seconds:
            self._recent.popleft()
        return max(pods for _, pods in self._recent)

    def _reason(self, wanted: int, replicas: int) -> str:
        if wanted < self.limits.min_replicas:
            return "AtMinReplicas"
        if wanted > replicas:
            return "AtMaxReplicas"
        return "Burst" if self._panic_since is not None else "Concurrency"
