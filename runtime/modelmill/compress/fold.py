"""Batch norms become part of the convolutions before them, in the file too: fewer tensors, and grids see what will be computed.

Training needs its norms, and so does pruning of channels, after which they settle on what the smaller module computes; so
this comes after the last such step. What is folded is proven: the module must answer as before on rows of the data.
"""

from collections.abc import Sequence

from modelmill.compress.draft import Context, Draft
from modelmill.compress.graph.compare import differing
from modelmill.compress.graph.fold import fold
from modelmill.compress.graph.pairs import pairs
from modelmill.compress.graph.tensors import clone
from modelmill.compress.structure import Fold
from modelmill.contract.steps import Step


def place(steps: Sequence[Step]) -> int | None:
    """The step before which norms are folded (as many as there are: after all); None where they stay, under grids that were
    trained with them, and in the trained model as it is."""
    index = 1 + max((number for number, step in enumerate(steps) if _needs_norms(step)), default=-1)
    return None if not steps or any(step.quantize or step.share for step in steps[:index]) else index


def fold_norms(draft: Draft, context: Context) -> None:
    found = pairs(clone(draft.module), inputs=1).found
    if not found:
        return
    (inputs, _), *_ = context.material.calibration(rows=2)
    folded = clone(draft.module)
    fold(folded, found)
    if difference := differing(folded, draft.module, inputs=(inputs,)):
        draft.notes.append(f"batch norms stay as they are: folded into convolutions, the model answers otherwise: {difference}")
        return
    draft.module = folded.requires_grad_(False)
    draft.structure += tuple(Fold(path=path, norm=norm) for path, norm in found.items())
    draft.notes.append(f"{len(found)} batch norms are part of the convolutions before them")


def _needs_norms(step: Step) -> bool:
    own, channels = step.prune or step.quantize or step.share, step.prune and step.prune.method == "Channels"
    return bool(step.distill or step.tune or step.migrate or channels or (own and own.training))
