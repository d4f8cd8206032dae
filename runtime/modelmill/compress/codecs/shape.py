"""The dense weight's shape, as a descriptor tells it."""

import math
from typing import Any

from modelmill.compress.errors import BadArtifact

MOST_DIMENSIONS = 5
MOST_ELEMENTS = 1 << 40


def shape_of(name: str, descriptor: dict[str, Any]) -> tuple[int, ...]:
    shape = descriptor.get("shape")
    whole = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
    if not whole or not isinstance(shape, list) or not 2 <= len(shape) <= MOST_DIMENSIONS or math.prod(shape) > MOST_ELEMENTS:
        raise BadArtifact(
            f"tensor {name!r}: shape {shape!r} must be 2 to {MOST_DIMENSIONS} numbers above 0, of at most {MOST_ELEMENTS} weights"
        )
    return tuple(shape)
