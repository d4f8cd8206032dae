"""BentoML's services: lists of rows in, lists of rows out."""

import base64
from collections.abc import Callable
from typing import Any, TypeVar

import bentoml  # type: ignore[import-not-found]  # the peer's environment has it

from benchmarks.serving.peers.handlers.shared import Model
from benchmarks.serving.peers.peer import MAX_ROWS

T = TypeVar("T", bound=Callable[..., Any])
service = bentoml.service(workers=1, traffic={"timeout": 120}, logging={"access": {"enabled": False}})
batched: Callable[[T], T] = bentoml.api(batchable=True, max_batch_size=MAX_ROWS)


@service
class Numbers:
    def __init__(self) -> None:
        self._model = Model()

    @batched
    def predict(self, rows: list[list[float]]) -> list[list[float]]:
        answers: list[list[float]] = self._model([self._model.row_of_numbers(row) for row in rows]).tolist()
        return answers


@service
class Base64:
    def __init__(self) -> None:
        self._model = Model()

    @batched
    def predict(self, rows: list[str]) -> list[str]:
        output = self._model([self._model.row(base64.b64decode(row)) for row in rows])
        return [base64.b64encode(row.tobytes()).decode() for row in output]
