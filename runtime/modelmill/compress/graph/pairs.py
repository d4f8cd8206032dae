"""Which batch norms take a convolution's output that nobody else takes: those can be folded into it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import fx, nn

from modelmill.compress.graph.trace import NoGraph, Traced, trace
from modelmill.compress.modules import CompressedConv2d

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, CompressedConv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(slots=True, kw_only=True)
class Pairs:
    found: dict[str, str] = field(default_factory=dict)
    """Path of the convolution -> path of the batch norm."""
    unseen: dict[str, str] = field(default_factory=dict)
    """Path of each part that has batch norms and cannot be followed -> why."""


def pairs(module: nn.Module, *, inputs: int) -> Pairs:
    """In the module and, where its forward cannot be followed, in its parts. Give it a copy, like `trace`."""
    result = Pairs()
    paths = Counter(part for _, part in module.named_modules(remove_duplicate=False))
    once = {path for path, part in module.named_modules() if paths[part] == 1}
    _collect(module, "", inputs, result)
    result.found = {one: two for one, two in result.found.items() if one in once and two in once}
    return result


def _collect(module: nn.Module, path: str, inputs: int | None, result: Pairs) -> None:
    kinds = {type(part) for part in module.modules()}
    if kinds.isdisjoint(CONVOLUTIONS) or kinds.isdisjoint(NORMS):
        return
    prefix = f"{path}." if path else ""
    try:
        traced = trace(module, inputs=inputs)
    except NoGraph as error:
        result.unseen[path] = str(error)
        parts = [name for name, _ in module.named_children()]
    else:
        result.found |= {prefix + one: prefix + two for one, two in _in_graph(traced, dict(module.named_modules()))}
        parts = list(traced.parts)
    for own in parts:
        _collect(module.get_submodule(own), prefix + own, None, result)


def _in_graph(traced: Traced, parts: Mapping[str, nn.Module]) -> Iterator[tuple[str, str]]:
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in traced.graph.nodes if node.op == "get_attr"}
    within = {part for own in traced.parts for part in parts[own].modules()}

    def private(node: fx.Node) -> nn.Module | None:
        """What the node calls, if this call is all that happens to it."""
        own = str(node.target)
        if node.op != "call_module" or calls[own] != 1 or own in read or len(node.args) != 1 or node.kwargs:
            return None
        return None if parts[own] in within else parts[own]

    for node in traced.graph.nodes:
        following = next(iter(node.users), None)
        if len(node.users) == 1 and following is not None and type(private(node)) in CONVOLUTIONS:
            norm = private(following)
            # Of the exact type: a subclass may do more than its class.
            if isinstance(norm, NORMS) and type(norm) in NORMS and not norm.training and norm.running_mean is not None:
                yield str(node.target), str(following.target)
