"""All sides of one workload: started, scored once, timed in interleaved rounds while the others wait for a question."""

import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.compression.process import Failed, Process
from benchmarks.compression.workloads import BATCHES
from benchmarks.serving.venvs import NotToBeHad, environment

SECONDS_IN_ROUND, LEAST_CALLS, MOST_CALLS = 0.25, 2, 50
"""Of one side in one round: short, and many of them, since the speed of a virtual processor changes within seconds."""
BASELINES = ("fp32 eager", "fp32 inductor")


@dataclass(frozen=True, slots=True)
class Contender:
    """A side: a library's module and mode, and what its environment needs (nothing: the project's own)."""

    name: str
    module: str
    mode: str
    requirements: tuple[str, ...] = ()


FP32 = tuple(Contender(f"fp32 {mode}", "fp32", mode) for mode in ("eager", "inductor"))
_TORCHAO = ("torchao==0.18.0",)
_INC = ("neural-compressor-pt==3.10",)
_STATIC = (
    Contender("pt2e static", "pt2e", "static", _TORCHAO),
    Contender("pt2e static 7-bit", "pt2e", "static-7bit", _TORCHAO),
    Contender("neural-compressor static", "inc", "static", _INC),
)
_LINEAR = (
    Contender("pt2e dynamic", "pt2e", "dynamic", _TORCHAO),
    Contender("pt2e dynamic 7-bit", "pt2e", "dynamic-7bit", _TORCHAO),
    Contender("neural-compressor dynamic", "inc", "dynamic", _INC),
    Contender("torchao int8 eager", "torchao", "int8", _TORCHAO),
    Contender("torchao int8 compiled", "torchao", "int8-compiled", _TORCHAO),
    Contender("torchao int4 eager", "torchao", "int4", _TORCHAO),
    Contender("torchao int4 compiled", "torchao", "int4-compiled", _TORCHAO),
)
_NETWORK = (*_STATIC, Contender("torchao int8 compiled", "torchao", "int8-compiled", _TORCHAO))
PEERS: Mapping[str, Sequence[Contender]] = {"resnet20": _NETWORK, "resnet56": _NETWORK, "minilm": (*_STATIC, *_LINEAR)}
OURS: Mapping[str, Sequence[str]] = {
    "resnet20": ("int8",),
    "resnet56": ("int8", "structured", "best"),
    "minilm": ("int8", "int4"),
}
"""Variants by workload; the file is `<workload>-<variant>.safetensors`."""


@dataclass(frozen=True, slots=True)
class Times:
    """Of one call, in seconds, the best of each round: `cpu` leaves out what other programs took."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Results:
    workload: str
    scores: dict[str, float] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)
    times: dict[tuple[str, int], Times] = field(default_factory=dict)
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    compile_seconds: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Side -> why it has no figures."""

    def seconds(self, name: str, batch: int) -> float:
        return statistics.median(self.times[name, batch].cpu)


def ours(workload: str, variants: Path) -> list[Contender]:
    return [
        Contender(f"ours {name}", "ours", str((variants / f"{workload}-{name}.safetensors").resolve())) for name in OURS[workload]
    ]


def compare(workload: str, contenders: Sequence[Contender], *, rounds: int, logs: Path) -> Results:
    results = Results(workload)
    with _started(results, contenders, logs) as sides:
        for name in list(sides):
            _once(results, name, sides)
        counts: dict[tuple[str, int], int] = {}
        for turn in range(rounds):
            for batch in BATCHES[workload]:
                for name, side in sides.items():
                    _say(f"{workload}: round {turn + 1} of {rounds}, batch {batch}, {name}")
                    _time(results, name, side, batch, counts)
    return results


@contextmanager
def _started(results: Results, contenders: Sequence[Contender], logs: Path) -> Iterator[dict[str, Process]]:
    """One after another, so that nobody is prepared while another computes."""
    sides: dict[str, Process] = {}
    try:
        for one in contenders:
            _say(f"{results.workload}: preparing {one.name}")
            if one.module == "ours" and not Path(one.mode).exists():
                results.missing[one.name] = f"no file {Path(one.mode).name} in the folder of variants"
                continue
            try:
                python = _python(one)
            except NotToBeHad as error:
                results.missing[one.name] = str(error)
                continue
            log = logs / f"{results.workload}-{one.name.replace(' ', '-')}.log"
            side = Process(python, f"benchmarks.compression.sides.{one.module}", results.workload, one.mode, log=log)
            sides[one.name] = side
            try:
                side.ready()
            except Failed as error:
                results.missing[one.name] = str(error)
                sides.pop(one.name).close()
        yield sides
    finally:
        for side in sides.values():
            side.close()


def _python(one: Contender) -> Path:
    """The interpreter of the library's environment; sides of one library share it."""
    if not one.requirements:
        return Path(sys.executable)
    return environment(f"compression-{one.requirements[0].partition('==')[0]}", one.requirements)


def _once(results: Results, name: str, sides: dict[str, Process]) -> None:
    """Compiles all sizes and judges the answers; a side that cannot is left out, with its reason."""
    _say(f"{results.workload}: judging {name}")
    side = sides[name]
    try:
        seconds = [side.ask("compile", batch=batch)["seconds"] for batch in BATCHES[results.workload]]
        score = side.ask("accuracy")
        results.facts[name] = side.ask("describe")
    except Failed as error:
        results.missing[name] = str(error)
        sides.pop(name).close()
        return
    results.compile_seconds[name] = sum(seconds)
    results.scores[name], results.least[name] = score["value"], score["least"]


def _time(results: Results, name: str, side: Process, batch: int, counts: dict[tuple[str, int], int]) -> None:
    key = name, batch
    if key not in counts:
        first = side.ask("time", batch=batch, rounds=1)["wall"][0]
        counts[key] = min(MOST_CALLS, max(LEAST_CALLS, int(SECONDS_IN_ROUND / first)))
    told = side.ask("time", batch=batch, rounds=counts[key])
    times = results.times.setdefault(key, Times())
    times.wall.append(min(told["wall"]))
    times.cpu.append(min(told["cpu"]))


def _say(text: str) -> None:
    if sys.stderr.isatty() or os.environ.get("MODELMILL_VERBOSE"):
        print(text, file=sys.stderr, flush=True)
