"""A side's own process: answers questions on stdin, one JSON object a line, so that only one side computes at a time.

    {"do": "compile", "batch": 32}               -> {"seconds": s}
    {"do": "accuracy"}                           -> {"value": v, "least": v}
    {"do": "time", "batch": 32, "rounds": n}     -> {"wall": [s, ...], "cpu": [s, ...]}    one entry a call
    {"do": "describe"}                           -> what the side tells of itself

The first line it writes is {"ready": true}, or {"failed": reason}; a question that fails is answered with the latter.
`cpu` is that of the whole process, so a library that starts threads against the rule is charged for them.
"""

import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import IO, Any

import torch

from benchmarks.compression.workloads import SCORED, Call, Inputs, Workload

Make = Callable[[Inputs], Call]
"""A function for calls with inputs of these shapes."""
Prepare = Callable[[Workload], Make]


class Side:
    def __init__(self, workload: Workload, make: Make, facts: Callable[[], Mapping[str, Any]]) -> None:
        self.workload, self.make, self.facts = workload, make, facts
        self.calls: dict[int, Call] = {}

    def answer(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        match question["do"]:
            case "compile":
                began = time.perf_counter()
                self.call(question["batch"])
                return {"seconds": time.perf_counter() - began}
            case "accuracy":
                return dataclasses.asdict(self.workload.score(self.call(SCORED[self.workload.name])))
            case "time":
                return self.timed(question["batch"], rounds=question["rounds"])
            case "describe":
                return self.facts()
        raise ValueError(f"do: {question['do']!r} is not known")

    def call(self, batch: int) -> Call:
        if batch not in self.calls:
            inputs = self.workload.timed(batch)
            made = self.make(inputs)
            with torch.inference_mode():
                for _ in range(2):
                    made(*inputs)
            self.calls[batch] = made
        return self.calls[batch]

    def timed(self, batch: int, *, rounds: int) -> Mapping[str, Any]:
        call, inputs = self.call(batch), self.workload.timed(batch)
        wall, cpu = [], []
        with torch.inference_mode():
            call(*inputs)
            for _ in range(rounds):
                before, own = time.perf_counter(), time.process_time()
                call(*inputs)
                wall.append(time.perf_counter() - before)
                cpu.append(time.process_time() - own)
        return {"wall": wall, "cpu": cpu}


def serve(prepare: Prepare, *, workload: str, facts: Callable[[], Mapping[str, Any]] = dict) -> None:
    """Answers until stdin ends."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Libraries print; what they print is no answer.
    try:
        task = Workload(workload)
        side = Side(task, prepare(task), facts)
    except Exception as error:
        _tell(answers, _failure(error))
        return
    _tell(answers, {"ready": True})
    for line in sys.stdin:
        try:
            told = side.answer(json.loads(line))
        except Exception as error:
            told = _failure(error)
        _tell(answers, told)


def _failure(error: Exception) -> Mapping[str, Any]:
    traceback.print_exc()
    reason = next(iter(str(error).strip().splitlines()), "")
    return {"failed": f"{type(error).__name__}: {reason}"}


def _tell(answers: IO[str], told: Mapping[str, Any]) -> None:
    answers.write(json.dumps(told) + "\n")
    answers.flush()
