"""Is a way right on this device? Tried once a process, on small random weights, against plain torch in float64.

Scales are powers of two and activations whole numbers up to 127 times a power of two, so nothing is rounded before the
answer, whatever the way computes in: an answer may differ by half of its last digit. A wrong order of codes, a lost group,
another sign of the zeros or sums in too small a type differ by more.
"""

import logging
from collections.abc import Iterator

import torch

from modelmill.kernels.gpu.way import Trial, Way
from modelmill.kernels.gpu.whole import Whole
from modelmill.kernels.reference import LARGEST

log = logging.getLogger(__name__)
ROWS = (1, 17, 64)
MAX_REASON_CHARACTERS = 300
_found: dict[tuple[type[Way], torch.device], str | None] = {}


def objection(way: type[Way], device: torch.device) -> str | None:
    """Why the way is not to be used on the device; None where it was right."""
    if (way, device) not in _found:
        reason = _found[way, device] = _tried(way, device)
        if reason is not None:
            log.warning("%s is not used on %s: %s", way.name, device, reason)
    return _found[way, device]


def _tried(way: type[Way], device: torch.device) -> str | None:
    try:
        for weight, x in samples(way):
            made = way.of(weight.to(device), None)
            if reason := _wrong(made(x[None].to(device))[0].cpu(), x, weight, way.precision):
                return reason
    except Exception as error:  # of a driver, a library or a missing operator: dense is right without them
        return f"{type(error).__name__}: {error}"[:MAX_REASON_CHARACTERS]
    return None


def samples(way: type[Way]) -> Iterator[tuple[Whole, torch.Tensor]]:
    """Weights of the way's trials, and activations [M, K] for them."""
    source = torch.Generator().manual_seed(1)
    for trial in way.trials:
        weight = _weight(trial, way, source)
        for rows in ROWS:
            yield weight, _activations(rows, trial.inputs, source)


def _wrong(found: torch.Tensor, x: torch.Tensor, weight: Whole, precision: torch.dtype) -> str | None:
    wanted = x.double() @ weight.decode().double().t()
    error = (found.double() - wanted).abs()
    if bool((error <= torch.finfo(precision).eps / 2 * wanted.abs()).all()):
        return None
    shape = f"{weight.outputs} outputs, {weight.inputs} inputs, {x.shape[0]} rows"
    return f"it answers wrong: off by up to {float(error.max()):.3g} of {float(wanted.abs().max()):.3g} ({shape})"


def _weight(trial: Trial, way: type[Way], source: torch.Generator) -> Whole:
    outputs, inputs, groups, zeros = trial
    levels = torch.tensor(way.levels, dtype=torch.int8)
    numbers = levels[torch.randint(len(levels), (outputs, inputs), generator=source)]
    if way.two_of_four:
        places = torch.rand(outputs, inputs // 4, 4, generator=source).argsort(dim=2).view(outputs, inputs)
        numbers = numbers.masked_fill(places > 1, 0)
    scale = torch.randint(-1, 2, (outputs, groups), generator=source).float().exp2()
    zero = torch.randint(-8, 8, (outputs, groups), generator=source, dtype=torch.int8) if zeros else None
    return Whole(numbers=numbers, scale=scale, levels=way.levels, zero=zero, two_of_four=way.two_of_four)


def _activations(rows: int, inputs: int, source: torch.Generator) -> torch.Tensor:
    whole = torch.randint(-LARGEST, LARGEST + 1, (rows, inputs), generator=source).float()
    whole[:, 0] = LARGEST  # so that int8 activations are exactly these
    return whole * torch.randint(-6, 7, (rows, 1), generator=source).float().exp2()
