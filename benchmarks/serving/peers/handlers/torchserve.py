"""TorchServe's handler: called with None once at the start, then with lists of requests."""

from functools import cache
from typing import Any

from benchmarks.serving.peers.handlers.shared import Model


@cache
def model() -> Model:
    return Model()


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[Any] | None:
    if data is None:
        model()
        return None
    bodies = [one["body"] for one in data]
    if isinstance(bodies[0], dict):
        rows = model()([model().row_of_numbers(body["rows"][0]) for body in bodies])
        return [row.tolist() for row in rows]
    return [row.tobytes() for row in model()([model().row(bytes(body)) for body in bodies])]
