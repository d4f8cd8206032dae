"""A forward written anew from its graph: convolutions in programs, and the rest of the compressed ones fused."""

from torch import fx, nn

from modelmill.compress.graph.trace import NoGraph, trace
from modelmill.compress.modules import CompressedConv2d
from modelmill.serve.optimize.calls import without_identities
from modelmill.serve.optimize.conv_program import ConvProgram
from modelmill.serve.optimize.fused import fuse
from modelmill.serve.optimize.runs import gather


def rewrite(module: nn.Module, *, inputs: int) -> tuple[nn.Module, dict[str, int]]:
    """For calls with so many inputs: the module, and what was done, how often. `module` may be changed."""
    if not any(type(part) in (nn.Conv2d, CompressedConv2d) for part in module.modules()):
        return module, {}
    before = _state(module)
    try:
        graph = trace(module, inputs=inputs).graph
    except NoGraph:
        return module, {}
    if _state(module) != before or any(node.op == "get_attr" and _is_made(str(node.target)) for node in graph.nodes):
        return module, {}
    without_identities(module, graph)
    done = {
        "convolutions in programs": gather(module, graph),
        "compressed convolutions fused with what follows": fuse(module, graph),
    }
    if not any(done.values()):
        return module, {}
    graph.lint()
    return fx.GraphModule(module, graph), done


def _state(module: nn.Module) -> dict[tuple[str, str], object]:
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


def programs(module: nn.Module) -> list[ConvProgram]:
    return [part for part in module.modules() if isinstance(part, ConvProgram)]
