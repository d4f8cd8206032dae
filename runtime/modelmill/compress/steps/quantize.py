"""Quantization: a grid for every weight that has a compressed form, trained into place where that is wanted."""

import torch
from torch import nn

from modelmill.compress import qat
from modelmill.compress.calibrate import activation_scale, observe
from modelmill.compress.draft import Context, Draft
from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.binary import Binary
from modelmill.compress.grids.clipping import MSE, Clipping, MinMax, Percentile
from modelmill.compress.grids.dynamic_range import DynamicRange
from modelmill.compress.grids.fixed_point import FixedPoint
from modelmill.compress.grids.grid import Granularity, Grid, groups_fit
from modelmill.compress.grids.kmeans import KMeans
from modelmill.compress.grids.normal_float import NormalFloat
from modelmill.compress.grids.residue import Residue
from modelmill.compress.grids.steps import Steps
from modelmill.compress.grids.ternary import Ternary
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.grids.xnor import Xnor
from modelmill.compress.steps.training import CALIBRATION_ROWS, names_of, needed, train
from modelmill.compress.tune import hold
from modelmill.contract.steps import Quantize, Training

CLIPPINGS: dict[str, Clipping] = {"MinMax": MinMax(), "Percentile": Percentile(), "MSE": MSE()}
METHODS = (
    *("Uniform", "FixedPoint", "Residue", "DynamicRange", "NormalFloat", "KMeans", "Steps", "Binary", "XNOR", "Ternary"),
    "BFloat16",
)


def run(step: Quantize, draft: Draft, context: Context | None) -> None:
    if step.method == "BFloat16":
        draft.rounded = True
        return
    for name in names_of(draft.module):
        shape = tuple(draft.module.get_parameter(name).shape)
        if step.granularity == "Group" and not groups_fit(step.group_size, shape):
            draft.notes.append(f"{name}: a scale for each channel, because groups of {step.group_size} do not fit {list(shape)}")
        draft.grids[name] = grid_of(step, shape=shape, masked=name in draft.masks)
    if step.method == "XNOR" and context is not None:
        _keep_activations(draft, context)
    if step.activations == "Static":
        _calibrate(step, draft, needed(context, "quantize.activations: Static"))
    if step.training is not None:
        train_on_grids(step.training, draft, needed(context, "quantize.training"), label="quantize")


def grid_of(step: Quantize, *, shape: tuple[int, ...], masked: bool) -> Grid:
    """The step's grid for a weight [N, ...]; with a scale for each channel where groups do not fit."""
    size = step.group_size
    fits = step.granularity != "Group" or groups_fit(size, shape)
    granularity: Granularity = _granularity(step) if fits else "Channel"
    bits = step.bits
    match step.method:
        case "Uniform":
            return Uniform(
                bits=bits or 8,
                granularity=granularity,
                group_size=size,
                symmetric=step.symmetric,
                clipping=_clipping(step),
            )
        case "FixedPoint":
            return FixedPoint(bits=bits or 8, point=step.fraction_bits)
        case "Residue":
            return Residue(modulus=step.modulus or 256, point=step.fraction_bits)
        case "DynamicRange":
            return DynamicRange(bits=bits or 8, granularity=granularity, group_size=size)
        case "NormalFloat":
            return NormalFloat(bits=bits or 4, granularity=granularity, group_size=size)
        case "KMeans":
            return KMeans(clusters=1 << (bits or 4), granularity=granularity, group_size=size, zero_kept=masked)
        case "Steps":
            return Steps(steps=1 << (bits or 4), granularity=granularity, group_size=size, zero_kept=masked)
        case "Binary":
            return Binary(granularity=granularity, group_size=size)
        case "XNOR":
            # Of 1-d and 3-d convolutions the activations stay as they are.
            return Xnor() if len(shape) in (2, 4) else Binary()
        case "Ternary":
            return Ternary(granularity=granularity, group_size=size)
        case _:
            raise CompressionError(f"quantize.method: {step.method!r} is not known; use one of {', '.join(METHODS)}")


def _granularity(step: Quantize) -> Granularity:
    if step.granularity not in ("Tensor", "Channel", "Group"):
        raise CompressionError(f"quantize.granularity: {step.granularity!r} is not known; use Tensor, Channel or Group")
    return step.granularity  # type: ignore[return-value]  # one of them


def _clipping(step: Quantize) -> Clipping:
    if step.clipping not in CLIPPINGS:
        raise CompressionError(f"quantize.clipping: {step.clipping!r} is not known; use one of {', '.join(CLIPPINGS)}")
    return CLIPPINGS[step.clipping]


def _keep_activations(draft: Draft, context: Context) -> None:
    """Inputs that are never below 0, as after a relu, have one sign: nothing would be left of them."""
    names = [name for name, grid in draft.grids.items() if isinstance(grid, Xnor)]
    for name, seen in observe(draft.module, names, context.material.calibration(rows=CALIBRATION_ROWS)).items():
        if seen.low >= 0:
            draft.grids[name] = Binary()
            draft.notes.append(f"{name}: binary weights alone: its inputs are never below 0, so their signs say nothing")


def _calibrate(step: Quantize, draft: Draft, context: Context) -> None:
    seen = observe(draft.module, list(draft.grids), context.material.calibration(rows=CALIBRATION_ROWS))
    draft.activation_scales = {name: activation_scale(one, _clipping(step)) for name, one in seen.items()}


def train_on_grids(asked: Training, draft: Draft, context: Context, *, label: str) -> None:
    """Trains the floats behind the grids (straight-through), with int8 activations as they will be, and zeros held."""
    hold(draft.module, draft.masks)
    qat.attach(draft.module, draft.grids, activations=True, activation_scales=draft.activation_scales)
    behind = {name: _behind(draft.module, name) for name in draft.masks.keys() & draft.grids.keys()}

    def keep_zeros(_: int) -> None:
        with torch.no_grad():
            for name, weight in behind.items():
                weight.mul_(draft.masks[name].kept)

    try:
        train(asked, draft, context, label=label, after_step=keep_zeros)
    finally:
        qat.settle(draft.module, draft.grids)


def _behind(module: nn.Module, name: str) -> torch.Tensor:
    path, _, own = name.rpartition(".")
    return module.get_parameter(f"{path}.parametrizations.{own}.original")
