"""Finds convolutions that follow each other, and makes programs of them.

A run is what can be computed at its last call: its convolutions read only each other's values and earlier ones, and nothing
else reads theirs before its end. Of a ResNet that is everything but pooling and the last layer. A coded convolution takes part
where its input comes from a relu, so that it is never below 0.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx, nn

from modelmill.compress.modules import CompressedConv2d
from modelmill.serve.optimize.calls import Call, calls, is_relu
from modelmill.serve.optimize.conv_program import ConvProgram, Link, fits, part_of

FEWEST = 2
"""Convolutions that are worth a program."""


@dataclass(slots=True, kw_only=True, eq=False)
class Run:
    calls: list[Call] = field(default_factory=list)
    scales: dict[fx.Node, float | None] = field(default_factory=dict)
    """Of the whole numbers that a value becomes; all that read it have to agree."""

    def values(self) -> list[fx.Node]:
        return [call.end for call in self.calls]

    def inputs(self) -> list[fx.Node]:
        own = set(self.values())
        read = [node for call in self.calls for node in (call.x, call.residual) if node is not None]
        return list(dict.fromkeys(node for node in read if node not in own))

    def outputs(self) -> list[fx.Node]:
        """The values that others read."""
        own = {node for call in self.calls for node in call.inner()}
        return [node for node in self.values() if any(user not in own for user in node.users)]


def gather(module: nn.Module, graph: fx.Graph) -> list[str]:
    """Rewrites the graph, whose layers `module` has and gets; paths of the convolutions that are in programs now."""
    runs = _runs(module, graph)
    paths = [str(call.node.target) for run in runs for call in run.calls]
    layers = {_layer(module, call) for run in runs for call in run.calls}
    parts = {layer: part_of(layer) for layer in layers}  # one that is called twice stays one
    for number, run in enumerate(runs):
        program = _program(run, [parts[_layer(module, call)] for call in run.calls])
        _replace(module, graph, run, program, f"program_{number}")
    return paths


def _runs(module: nn.Module, graph: fx.Graph) -> list[Run]:
    found = [call for call in calls(module, graph, nn.Conv2d, CompressedConv2d) if fits(_layer(module, call))]
    ends = {call.end: call for call in found}
    inner = {node for call in found for node in call.inner()}
    positive = {call.end for call in found if call.relu}
    runs = [Run()]
    for node in graph.nodes:
        if _keeps_sign(module, node) and (is_relu(module, node) or positive.intersection(node.all_input_nodes)):
            positive.add(node)
        call = ends.get(node)
        if call is not None and _admits(module, runs[-1], call, positive):
            runs[-1].calls.append(call)
        elif call is not None or node not in inner:
            # What is not taken may read a value of the run, which has to be there then.
            nodes = [node] if call is None else call.inner()
            if any(read in set(runs[-1].values()) for one in nodes for read in one.all_input_nodes):
                runs.append(Run())
            if call is not None and _admits(module, runs[-1], call, positive):
                runs[-1].calls.append(call)
    return [run for run in runs if len(run.calls) >= FEWEST]


def _admits(module: nn.Module, run: Run, call: Call, positive: set[fx.Node]) -> bool:
    layer = _layer(module, call)
    if isinstance(layer, CompressedConv2d):
        if call.x not in positive:
            return False
        scale = layer.weight.activation_scale
        return run.scales.setdefault(call.x, scale) == scale
    return True


def _keeps_sign(module: nn.Module, node: fx.Node) -> bool:
    """Whether a relu, or a pool or a dropout, which are positive where their input is."""
    kinds = (nn.MaxPool2d, nn.AvgPool2d, nn.Dropout, nn.Identity)
    return is_relu(module, node) or (node.op == "call_module" and type(module.get_submodule(str(node.target))) in kinds)


def _layer(module: nn.Module, call: Call) -> nn.Module:
    return module.get_submodule(str(call.node.target))


def _program(run: Run, layers: Sequence[nn.Module]) -> ConvProgram:
    inputs = run.inputs()
    numbers = {node: number for number, node in enumerate((*inputs, *run.values()))}
    links = [Link(numbers[call.x], None if call.residual is None else numbers[call.residual], call.relu) for call in run.calls]
    return ConvProgram(layers, links, inputs=len(inputs), outputs=[numbers[node] for node in run.outputs()])


def _replace(module: nn.Module, graph: fx.Graph, run: Run, program: ConvProgram, path: str) -> None:
    module.add_module(path, program)
    outputs = run.outputs()
    with graph.inserting_before(run.values()[-1]):
        result = graph.call_module(path, tuple(run.inputs()))
        results = [result]
        if len(outputs) > 1:
            results = [graph.call_function(operator.getitem, (result, index)) for index in range(len(outputs))]
    for node, replaced in zip(outputs, results, strict=True):
        node.replace_all_uses_with(replaced)
    for call in reversed(run.calls):
        for node in call.inner():
            graph.erase_node(node)
