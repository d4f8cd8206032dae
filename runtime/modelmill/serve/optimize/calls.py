"""Convolutions in a graph, each with what follows it: a residual that is added, a cut below zero."""

import operator
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn import functional

_ADD = (operator.add, operator.iadd, torch.add)
_RELU = (functional.relu, torch.relu)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """relu(convolution(x) + residual), as far as they are there."""

    node: fx.Node
    """Of the convolution."""
    end: fx.Node
    """Whose value it is: the last of the nodes that it stands for."""
    sum: fx.Node | None
    relu: bool

    @property
    def x(self) -> fx.Node:
        (given,) = self.node.args
        assert isinstance(given, fx.Node)
        return given

    @property
    def residual(self) -> fx.Node | None:
        """As the graph is now: what stood there may have been replaced."""
        return None if self.sum is None else _summand(self.sum, self.node)

    def inner(self) -> tuple[fx.Node, ...]:
        """The nodes that it stands for, last first."""
        nodes = (self.end, self.sum, self.node)
        return tuple(dict.fromkeys(node for node in nodes if node is not None))


def calls(module: nn.Module, graph: fx.Graph, *kinds: type[nn.Module]) -> list[Call]:
    """Of layers of exactly these types, in the graph's order."""
    claimed: set[fx.Node] = set()
    found = []
    for node in graph.nodes:
        if node.op == "call_module" and type(module.get_submodule(str(node.target))) in kinds and _takes_one(node):
            call = _call(module, node, claimed)
            claimed.update(call.inner())
            found.append(call)
    return found


def without_identities(module: nn.Module, graph: fx.Graph) -> None:
    """Batch norms that were folded leave them."""
    for node in list(graph.nodes):
        if node.op == "call_module" and type(module.get_submodule(str(node.target))) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def is_relu(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) is nn.ReLU
    return (node.op == "call_function" and node.target in _RELU) or (node.op == "call_method" and node.target == "relu")


def _call(module: nn.Module, node: fx.Node, claimed: set[fx.Node]) -> Call:
    end, total = node, None
    user = _only_user(node)
    if user is not None and user not in claimed and _summand(user, node) is not None:
        end = total = user
        user = _only_user(user)
    relu = user is not None and is_relu(module, user)
    return Call(node=node, end=user if relu and user else end, sum=total, relu=relu)


def _takes_one(node: fx.Node) -> bool:
    return len(node.args) == 1 and isinstance(node.args[0], fx.Node) and not node.kwargs


def _summand(node: fx.Node, given: fx.Node) -> fx.Node | None:
    """What else a sum of two adds."""
    if node.op != "call_function" or node.target not in _ADD or len(node.args) != 2 or node.kwargs:
        return None
    others = [one for one in node.args if one is not given]
    return others[0] if len(others) == 1 and isinstance(others[0], fx.Node) else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
