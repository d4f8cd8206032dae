"""The graph of a forward: which calls it makes, on what, whatever the values are. By torch.fx, to look at, not to run.

A part whose forward cannot be followed is one call in the graph: its control flow depends on values, or it has hooks.
If that part is the module itself, there is no graph. Give it a copy: following a forward may leave traces in attributes.

While it traces, torch.fx replaces calls of modules in the whole process: calls in other threads are handed through.
"""

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from modelmill.compress.modules import Compressed

MAX_REASON_CHARACTERS = 160
REPLACED = "its forward was replaced"


class NoGraph(ValueError):
    """The module's own forward cannot be followed."""


class Leaf(nn.Module):
    """One call in any graph, whatever its forward does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    graph: fx.Graph
    parts: dict[str, str]
    """Path of each part that is one call -> why; torch's own layers are not mentioned."""


def trace(module: nn.Module, *, inputs: int | None) -> Traced:
    """For calls with this many positional inputs; None: however it is called. Raises NoGraph."""
    if "forward" in vars(module):
        raise NoGraph(REPLACED)
    tracer = _Tracer()
    try:
        graph = tracer.trace(module, concrete_args=None if inputs is None else _defaults(module, inputs))
    except Exception as error:
        raise NoGraph(_why(error)) from error
    return Traced(graph=graph, parts=tracer.parts)


def customised(module: nn.Module) -> str | None:
    """Why a call of the module is more than its class's forward; None when it is not."""
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has hooks"
    return REPLACED if "forward" in vars(module) else None


def _defaults(module: nn.Module, inputs: int) -> dict[str, Any]:
    parameters = list(inspect.signature(module.forward).parameters.values())[inputs:]
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def _why(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:MAX_REASON_CHARACTERS]


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, str] = {}
        self._thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = module_qualified_name in self.parts or isinstance(m, Compressed | Leaf)
        return own or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        if reason := customised(m):
            self.parts[path] = reason
        made, depth = len(self.graph.nodes), len(self.module_stack)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:
            if self.is_leaf_module(m, path):
                raise
            self.parts[path] = _why(error)
            self._take_back(made, depth)
            return super().call_module(m, forward, args, kwargs)

    def _take_back(self, made: int, depth: int) -> None:
        """What was called before a forward failed, and where. Reading an attribute stays: torch.fx keeps it for later."""
        for node in reversed(list(self.graph.nodes)[made:]):
            if node.op != "get_attr" and not node.users:
                self.graph.erase_node(node)
        while len(self.module_stack) > depth:
            self.module_stack.popitem()
