"""A forward written anew from its graph: convolutions in programs, the other layers prepacked, and fused with what follows."""

from collections.abc import Mapping

from torch import fx, nn

from modelmill.compress.modules import CompressedConv2d
from modelmill.serve.optimize.calls import without_identities
from modelmill.serve.optimize.conv_program import ConvProgram
from modelmill.serve.optimize.fused import fuse
from modelmill.serve.optimize.graphs import followed
from modelmill.serve.optimize.prepacked import Size, prepack
from modelmill.serve.optimize.runs import gather

PREPACKED = "layers with prepacked weights"


def rewrite(module: nn.Module, *, inputs: int, sizes: Mapping[str, Size]) -> tuple[nn.Module, dict[str, int]]:
    """For calls with so many inputs: the module, and what was done, how often. `module` may be changed.

    sizes: height and width of each convolution's images, by path; () where calls differ."""
    convolves = any(type(part) in (nn.Conv2d, CompressedConv2d) for part in module.modules())
    traced = followed(module, inputs=inputs) if convolves else None
    if traced is None:
        return module, {PREPACKED: prepack(module, sizes)}
    without_identities(module, traced.graph)
    taken = gather(module, traced.graph)
    prepacked = prepack(module, sizes, but=taken)
    fused = fuse(module, traced.graph)
    done = {"convolutions in programs": len(taken), PREPACKED: prepacked, "convolutions fused with what follows": fused}
    if not taken and not fused:
        return module, done
    traced.graph.lint()
    return fx.GraphModule(module, traced.graph), done


def programs(module: nn.Module) -> list[ConvProgram]:
    return [part for part in module.modules() if isinstance(part, ConvProgram)]
