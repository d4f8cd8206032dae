"""What zeros bring on this machine, in numbers, so that nobody expects from them what they cannot give."""

from collections.abc import Iterable, Mapping

import torch

from modelmill import kernels
from modelmill.compress.codecs.blocks import BlockWeight
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
"""Part of dense's time below which nothing is said: what is measured varies by about 0.03."""
SINGLE = "for speed use pattern 16x1 from 0.7 on, or method Channels"
ADVICE = {
    "Unstructured": SINGLE,
    "2:4": SINGLE,
    "16x1": "take more blocks away, or use method Channels",
    "4x1": "use pattern 16x1, take more blocks away, or use method Channels",
}
"""By pattern."""


def warnings(draft: Draft, weights: Mapping[str, Weight], material: Material) -> list[str]:
    """A sentence for each pattern of zeros that does not make its layers faster here; nothing where no data can be read."""
    found = []
    for pattern in ADVICE:
        masked = {name: weights[name] for name, mask in draft.masks.items() if mask.pattern == pattern}
        thinner = {name: weight for name, weight in masked.items() if isinstance(weight, SparseWeight | BlockWeight)}
        told = _measured(pattern, draft, thinner, material) if thinner else _in_vain(draft, masked) if masked else None
        found += [told] if told else []
    return found


def _measured(pattern: str, draft: Draft, thinner: Mapping[str, SparseWeight | BlockWeight], material: Material) -> str | None:
    largest = sorted(thinner, key=lambda name: draft.masks[name].kept.numel())[-LARGEST:]
    layers = {name: draft.module.get_submodule(name.rpartition(".")[0]) for name in largest}
    try:
        row = material.calibration(rows=1)[0][0][:1]
    except Fault as fault:  # A variant that needs no data is not refused for want of them.
        draft.notes.append(f"prune {pattern}: its speed was not measured: {fault}")
        return None
    dense = taken = 0.0
    for name, seen in look(draft.module, layers, row).items():
        plain = Plain(data=draft.module.get_parameter(name))
        times = layer_seconds(layers[name], [plain, thinner[name]], seen.example, seconds=SECONDS)
        dense, taken = dense + seen.calls * times[0], taken + seen.calls * times[1]
    if taken < FASTER * dense or not dense:
        return None
    share = sum(map(stored_bytes, thinner.values())) / sum(draft.module.get_parameter(name).nbytes for name in thinner)
    verdict = "it makes the file smaller, not faster" if share < 1 else "it makes nothing smaller or faster"
    return (
        f"prune {pattern}: {_zeros(draft, thinner):.2f} of the weights are zeros; on this device ({kernels.status()['isa']}, "
        f"one thread) the largest such layers take {taken / dense:.2f} times dense's time, and all of them {share:.2f} of its "
        f"bytes: {verdict}; {ADVICE[pattern]}"
    )


def _in_vain(draft: Draft, masked: Mapping[str, Weight]) -> str:
    return (
        f"prune Unstructured: {_zeros(draft, masked):.2f} of the weights are zeros that are stored as any value and make nothing "
        f"smaller or faster; take {WORTH_IT} or more, and quantize with Uniform, 8 bits, a scale for each channel, or not at all"
    )


def _zeros(draft: Draft, names: Iterable[str]) -> float:
    kept = torch.cat([draft.masks[name].kept.flatten() for name in names])
    return 1 - float(kept.float().mean())
