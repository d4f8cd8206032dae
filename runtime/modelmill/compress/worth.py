"""What zeros among single weights bring on this machine, in numbers, so that nobody expects from them what they cannot give."""

from collections.abc import Mapping

import torch

from modelmill import kernels
from modelmill.compress.codecs.sparse import SparseWeight
from modelmill.compress.draft import Draft, Material
from modelmill.compress.encode import WORTH_IT
from modelmill.compress.search.cost import layer_seconds, look, stored_bytes
from modelmill.compress.weights import Plain, Weight
from modelmill.failures import Fault

LARGEST = 3
"""Layers that are measured for each pattern."""
SECONDS = 1.0
"""CPU time for each of them."""
FASTER = 0.95
"""Part of dense's time from which on nothing is said: what is measured varies by about 0.03."""


def warnings(draft: Draft, weights: Mapping[str, Weight], material: Material) -> list[str]:
    """A sentence for each pattern of zeros that does not make its layers faster here; nothing where no data can be read."""
    found = []
    for pattern in ("Unstructured", "2:4"):
        names = [name for name, mask in draft.masks.items() if mask.pattern == pattern]
        sparse = {name: weight for name in names if isinstance(weight := weights[name], SparseWeight)}
        if sparse and (told := _measured(pattern, draft, sparse, material)):
            found.append(told)
        if stored := [name for name in names if name not in sparse]:
            found.append(_in_vain(draft, stored))
    return found


def _measured(pattern: str, draft: Draft, sparse: Mapping[str, SparseWeight], material: Material) -> str | None:
    largest = sorted(sparse, key=lambda name: draft.masks[name].kept.numel())[-LARGEST:]
    layers = {name: draft.module.get_submodule(name.rpartition(".")[0]) for name in largest}
    try:
        row = material.calibration(rows=1)[0][0][:1]
    except Fault as fault:  # A variant that needs no data is not refused for want of them.
        draft.notes.append(f"prune {pattern}: its speed was not measured: {fault}")
        return None
    dense = taken = 0.0
    for name, seen in look(draft.module, layers, row).items():
        plain = Plain(data=draft.module.get_parameter(name))
        times = layer_seconds(layers[name], [plain, sparse[name]], seen.example, seconds=SECONDS)
        dense, taken = dense + seen.calls * times[0], taken + seen.calls * times[1]
    if taken < FASTER * dense or not dense:
        return None
    before = sum(draft.module.get_parameter(name).nbytes for name in sparse)
    return (
        f"prune {pattern}: {_zeros(draft, sparse):.2f} of the weights are zeros; on this device ({kernels.status()['isa']}, "
        f"one thread) the largest such layers take {taken / dense:.2f} times dense's time, and all of them "
        f"{sum(map(stored_bytes, sparse.values())) / before:.2f} of its bytes: the file becomes smaller, and nothing faster; "
        "for speed use pattern 16x1 from 0.7 on, or method Channels"
    )


def _in_vain(draft: Draft, names: list[str]) -> str:
    return (
        f"prune Unstructured: {_zeros(draft, names):.2f} of {len(names)} weights are zeros that are stored as any value, and "
        f"make nothing smaller or faster; take {WORTH_IT} or more away, and quantize to 8 bits (Uniform, Channel, symmetric) or not"
    )


def _zeros(draft: Draft, names: "Mapping[str, object] | list[str]") -> float:
    kept = torch.cat([draft.masks[name].kept.flatten() for name in names])
    return 1 - float(kept.float().mean())
