"""A forward written anew from its graph: convolutions in programs, and the rest of the compressed ones fused."""

from torch import fx, nn

from modelmill.compress.modules import CompressedConv2d
from modelmill.serve.optimize.calls import without_identities
from modelmill.serve.optimize.conv_program import ConvProgram
from modelmill.serve.optimize.fused import fuse
from modelmill.serve.optimize.graphs import followed
from modelmill.serve.optimize.runs import gather


def rewrite(module: nn.Module, *, inputs: int) -> tuple[nn.Module, dict[str, int]]:
    """For calls with so many inputs: the module, and what was done, how often. `module` may be changed."""
    if not any(type(part) in (nn.Conv2d, CompressedConv2d) for part in module.modules()):
        return module, {}
    traced = followed(module, inputs=inputs)
    if traced is None:
        return module, {}
    graph = traced.graph
    without_identities(module, graph)
    done = {
        "convolutions in programs": gather(module, graph),
        "compressed convolutions fused with what follows": fuse(module, graph),
    }
    if not any(done.values()):
        return module, {}
    graph.lint()
    return fx.GraphModule(module, graph), done


def programs(module: nn.Module) -> list[ConvProgram]:
    return [part for part in module.modules() if isinstance(part, ConvProgram)]
