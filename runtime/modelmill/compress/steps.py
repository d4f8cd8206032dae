"""What each kind of step does to a draft."""

from torch import nn

from modelmill.compress.draft import Context, Draft, Mask
from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.prune import threshold
from modelmill.compress.select import select
from modelmill.contract.steps import Prune, Quantize, Step


def perform(step: Step, draft: Draft, context: Context | None) -> None:
    if step.prune is not None:
        _prune(step.prune, draft)
    elif step.quantize is not None:
        _quantize(step.quantize, draft)


def names_of(module: nn.Module) -> list[str]:
    """The weights that have a compressed form. Raises CompressionError when there is none."""
    selection = select(module)
    if not selection.layers:
        told = [f"{name}: {reason}" for name, reason in list(selection.kept.items())[:3]]
        reasons = "; ".join(told) or "it has no weight with two dimensions or more"
        raise CompressionError(f"the model has no weight that can be compressed: {reasons}")
    return list(selection.layers)


def _prune(step: Prune, draft: Draft) -> None:
    for name in names_of(draft.module):
        kept = threshold.keep(draft.module.get_parameter(name), threshold=step.threshold or 0.0)
        earlier = draft.masks.get(name)
        draft.masks[name] = Mask(kept=kept if earlier is None else kept & earlier.kept)


def _quantize(step: Quantize, draft: Draft) -> None:
    if step.method == "BFloat16":
        draft.rounded = True
        return
    for name in names_of(draft.module):
        draft.grids[name] = Uniform(bits=step.bits or 8)
