"""Which graphs may stand for the forward that they were made from."""

from torch import nn

from modelmill.compress.graph.trace import NoGraph, Traced, customised, trace

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""torch's modules that only call their parts."""


def followed(module: nn.Module, *, inputs: int | None) -> Traced | None:
    """The module's graph, if running it is the same as calling the module; None where a call does more, or cannot be followed."""
    if customised(module):
        return None
    before = state_of(module)
    try:
        traced = trace(module, inputs=inputs)
    except NoGraph:
        return None
    made = any(node.op == "get_attr" and _is_made(str(node.target)) for node in traced.graph.nodes)
    return None if made or state_of(module) != before else traced


def state_of(module: nn.Module) -> dict[tuple[str, str], object]:
    """Numbers and words in attributes. A forward that changes them, such as a counter, has to run each time."""
    kinds = (int, float, str, type(None))
    return {
        (path, name): value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, kinds)
    }


def _is_made(name: str) -> bool:
    """Of a tensor that the forward makes: it may make another one the next time."""
    return name.rpartition(".")[2].startswith("_tensor_constant")
