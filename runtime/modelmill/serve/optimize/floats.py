"""GELU and attention by functions of our own (`kernels.floats`), wherever a forward calls torch's.

The calls are found in the graph of the module or, where its forward cannot be followed, of its parts; such a part becomes
a module made from its graph. Attention with dropout, a causal flag or groups of queries stays as it is.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from modelmill.compress.graph.trace import Leaf, customised
from modelmill.compress.modules import CompressedLinear
from modelmill.kernels import floats
from modelmill.serve.optimize.graphs import CONTAINERS, followed

_ATTENTION: Mapping[str, Any] = {
    "query": None, "key": None, "value": None, "attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None,
    "enable_gqa": False,
}  # fmt: skip
_GELU: Mapping[str, Any] = {"input": None, "approximate": "none"}


class Gelu(Leaf):
    def __init__(self, approximate: str, *, in_place: bool) -> None:
        super().__init__()
        self.approximate, self.in_place = approximate, in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return floats.gelu(x, self.approximate, in_place=self.in_place)


class Attention(Leaf):
    def __init__(self, scale: float | None) -> None:
        super().__init__()
        self.scale = scale

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        return floats.attention(query, key, value, mask, scale=self.scale)


def swap(module: nn.Module, *, inputs: int) -> tuple[nn.Module, int]:
    """For calls with so many inputs: the module, and how many calls are others now. `module` may be changed."""
    return _swap(module, inputs) if floats.available() else (module, 0)


def _swap(module: nn.Module, inputs: int | None) -> tuple[nn.Module, int]:
    if type(module) is nn.GELU and not customised(module):
        return Gelu(module.approximate, in_place=False), 1
    if type(module).__module__.startswith("torch.nn.") and not isinstance(module, CONTAINERS):
        return module, 0
    traced = followed(module, inputs=inputs)
    if traced is None:
        return module, sum(_swap_part(module, name) for name, _ in module.named_children())
    count = sum(_swap_part(module, path) for path in traced.parts)
    made = [one for node in list(traced.graph.nodes) if (one := _replaced(module, traced.graph, node))]
    if not made:
        return module, count
    traced.graph.lint()
    return fx.GraphModule(module, traced.graph), count + len(made)


def _swap_part(module: nn.Module, path: str) -> int:
    part, count = _swap(module.get_submodule(path), None)
    module.set_submodule(path, part)
    return count


def _replaced(module: nn.Module, graph: fx.Graph, node: fx.Node) -> bool:
    made, inputs = _ours(module, node)
    if made is None:
        return False
    name = f"_modelmill_{node.name}"
    module.add_module(name, made)
    with graph.inserting_before(node):
        node.replace_all_uses_with(graph.call_module(name, inputs))
    graph.erase_node(node)
    return True


def _ours(module: nn.Module, node: fx.Node) -> tuple[nn.Module | None, tuple[Any, ...]]:
    """What computes the node instead, and what it is given."""
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        if type(layer) is nn.GELU and len(node.args) == 1 and not node.kwargs:
            return Gelu(layer.approximate, in_place=_is_made_for(module, node)), node.args
    if node.op == "call_function" and node.target is functional.gelu:
        given = _bound(node, _GELU)
        if isinstance(given["approximate"], str) and isinstance(given["input"], fx.Node):
            return Gelu(given["approximate"], in_place=_is_made_for(module, node)), (given["input"],)
    if node.op == "call_function" and node.target is functional.scaled_dot_product_attention:
        given = _bound(node, _ATTENTION)
        plain = given["dropout_p"] == 0.0 and given["is_causal"] is False and given["enable_gqa"] is False
        if plain and isinstance(given["scale"], float | None):
            return Attention(given["scale"]), tuple(given[name] for name in ("query", "key", "value", "attn_mask"))
    return None, ()


def _bound(node: fx.Node, defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {**defaults, **dict(zip(defaults, node.args, strict=False)), **node.kwargs}


def _is_made_for(module: nn.Module, node: fx.Node) -> bool:
    """Whether its input is a linear layer's result that nobody else reads."""
    given = node.all_input_nodes[0]
    if given.op != "call_module" or len(given.users) != 1:
        return False
    layer = module.get_submodule(str(given.target))
    return type(layer) in (nn.Linear, CompressedLinear) and not customised(layer)
