"""The free dimensions of an exported program: which are one, and how large they may be."""

import re
from typing import Any

from modelmill.failures import Fault

Dimensions = tuple[tuple[str, ...], ...]
_SIZE = r"L\['inputs'\]\[\d+\]\.size\(\)\[\d+\]"
_UNDERSTOOD = re.compile(rf"{_SIZE} (== {_SIZE}|(==|<=|>=|<|>) \d+)|\d+ (<=|>=|<|>) {_SIZE}")
"""Told by names and limits as well."""


class NotFree(Fault):
    """The forward asks more of a free dimension than a name and limits tell."""

    reason = "CannotCompile"


def dimensions_of(program: Any) -> tuple[Dimensions, dict[str, tuple[int, ...]]]:
    """Of each input a name or a number by dimension, and the limits of each name. Raises NotFree."""
    guards = getattr(program, "_guards_code", None)
    if guards is None:
        raise NotFree("this torch does not tell what it assumes of sizes: use a newer one")
    for guard in guards:
        if not _UNDERSTOOD.fullmatch(guard):
            raise NotFree(
                f"the module's forward takes other ways for other sizes ({guard[:200]}), of which one would be compiled"
            )
    nodes = {node.name: node for node in program.graph.nodes}
    shapes = [nodes[name].meta["val"].shape for name in program.graph_signature.user_inputs]
    names: dict[Any, str] = {}
    dimensions = tuple(
        tuple(_named(size, f"{index}.{at}", names) for at, size in enumerate(shape)) for index, shape in enumerate(shapes)
    )
    limits = {name: _limits(program.range_constraints.get(symbol)) for symbol, name in names.items()}
    return dimensions, limits


def _named(size: Any, name: str, names: dict[Any, str]) -> str:
    if isinstance(size, int):
        return str(size)
    symbol = size.node.expr
    if not symbol.is_Symbol:
        raise NotFree(f"dimension {name} of the inputs must be {symbol}: sizes that depend on each other cannot be compiled")
    return names.setdefault(symbol, name)


def _limits(allowed: Any) -> tuple[int, ...]:
    """torch counts from 2, because it takes 0 and 1 for constants; what one row gives is tried."""
    if allowed is None:
        return (1,)
    low = 1 if int(allowed.lower) <= 2 else int(allowed.lower)
    return (low,) if not allowed.upper.is_Integer else (low, int(allowed.upper))
