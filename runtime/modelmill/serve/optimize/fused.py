"""Convolutions that also add a residual and cut off below zero, while their results are still in registers.

    relu(conv(x))          becomes          fused(x)
    relu(conv(x) + r)      becomes          fused(x, r)

For those that no program takes (`programs`). The forward is written anew from its graph; a module whose forward cannot be
followed stays as it is.
"""

import torch
from torch import fx, nn

from modelmill.compress.modules import CompressedConv2d
from modelmill.serve.optimize.calls import Call, calls
from modelmill.serve.optimize.prepacked import PrepackedConv2d

KINDS = (CompressedConv2d, PrepackedConv2d)


class FusedConv2d(nn.Module):
    def __init__(self, convolution: CompressedConv2d | PrepackedConv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        return self.convolution.rectified(x, residual)


def fuse(module: nn.Module, graph: fx.Graph) -> int:
    """Rewrites the graph, whose layers `module` has and gets; says how many calls were fused."""
    paths = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    found = [call for call in calls(module, graph, *KINDS) if call.relu and paths.count(str(call.node.target)) == 1]
    for call in found:
        _replace(module, graph, call)
    return len(found)


def _replace(module: nn.Module, graph: fx.Graph, call: Call) -> None:
    path = str(call.node.target)
    convolution = module.get_submodule(path)
    assert isinstance(convolution, KINDS)
    module.set_submodule(path, FusedConv2d(convolution))
    # Where the relu was: what is added may come after the convolution.
    with graph.inserting_before(call.end):
        fused = graph.call_module(path, (call.node.args[0], *(() if call.residual is None else (call.residual,))))
    call.end.replace_all_uses_with(fused)
    for node in call.inner():
        graph.erase_node(node)
