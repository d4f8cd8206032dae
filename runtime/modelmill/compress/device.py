"""Puts a loaded module on the device that serves it, and tells what computes with each of its compressed weights.

On a CPU they run as they are stored. On a GPU a linear layer becomes a way of `kernels.gpu`, where one takes its weight, and
any other layer a dense one with its weight decoded: neither keeps the stored form.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from modelmill import kernels
from modelmill.compress.modules import Compressed, CompressedConv2d
from modelmill.kernels import gpu

log = logging.getLogger(__name__)
DENSE, PLAIN = "dense", "plain torch"
NAMED = 3
"""Weights that a line of the log names."""
Chooser = Callable[[gpu.Whole], gpu.Choice]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """One weight."""

    name: str
    by: str
    """A set of instructions, a way's name, DENSE or PLAIN."""
    reasons: tuple[str, ...] = ()
    """Why no better one."""


def to_device(module: nn.Module, device: torch.device) -> Sequence[Runs]:
    """Moves the module, in place."""
    module.to(device)
    if device.type == "cpu":
        reasons = tuple(reason for reason in (kernels.status()["reason"],) if reason)
        layers = _compressed(module)
        found = [Runs(name=f"{path}.weight", by=layer.weight.instructions, reasons=reasons) for path, layer in layers]
    else:
        capability = torch.cuda.get_device_capability(device)
        found = settle(module, partial(gpu.choose, capability=capability, objection=partial(gpu.objection, device=device)))
    for line in told(found):
        log.info("on %s: %s", device, line)
    return found


def settle(module: nn.Module, choose: Chooser) -> list[Runs]:
    """Gives each layer with a compressed weight the way that `choose` names, or makes it dense; in place."""
    dtype = next((one.dtype for one in module.parameters() if one.is_floating_point()), torch.float32)
    return [_settled(module, path, layer, choose, dtype) for path, layer in _compressed(module)]


def _settled(module: nn.Module, path: str, layer: Compressed, choose: Chooser, dtype: torch.dtype) -> Runs:
    name = f"{path}.weight"
    if not layer.weight.decodable:
        return Runs(name=name, by=PLAIN, reasons=("its activations have 1 bit",))
    way, reasons = _way(layer, choose)
    module.set_submodule(path, _dense(layer, dtype) if way is None else way.eval())
    return Runs(name=name, by=DENSE, reasons=reasons) if way is None else Runs(name=name, by=way.name)


def _way(layer: Compressed, choose: Chooser) -> tuple[gpu.Way | None, tuple[str, ...]]:
    """Made for the layer; or why there is none."""
    if isinstance(layer, CompressedConv2d):
        return None, ("it is a convolution's",)
    whole = layer.weight.whole()
    if whole is None:
        return None, ("its values are no whole numbers",)
    way, reasons = choose(whole)
    return None if way is None else way.of(whole, layer.bias), reasons


def _dense(layer: Compressed, dtype: torch.dtype) -> nn.Module:
    outputs, inputs, *kernel = layer.weight.shape
    made: nn.Linear | nn.Conv2d
    if isinstance(layer, CompressedConv2d):
        how = layer.geometry
        height, width = kernel
        sides = height, width
        made = nn.Conv2d(inputs, outputs, sides, how.stride, how.padding, how.dilation, bias=False, device="meta")
    else:
        made = nn.Linear(inputs, outputs, bias=False, device="meta")
    made.weight = nn.Parameter(layer.weight.decode().to(dtype), requires_grad=False)
    made.bias = layer.bias
    return made.eval()


def _compressed(module: nn.Module) -> list[tuple[str, Compressed]]:
    return [(path, layer) for path, layer in module.named_modules() if isinstance(layer, Compressed)]


def counted(found: Sequence[Runs]) -> Counter[str]:
    """How many weights each runs."""
    return Counter(one.by for one in found)


def told(found: Sequence[Runs]) -> Iterator[str]:
    """Lines for the log: how many weights each runs, and where it is not the best one, why."""
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for one in found:
        alike.setdefault((one.by, one.reasons), []).append(one.name)
    for (by, reasons), names in alike.items():
        because = f": {'; '.join(reasons)}" if reasons else ""
        rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"{by} for {len(names)} compressed weights{because} ({', '.join(names[:NAMED])}{rest})"
