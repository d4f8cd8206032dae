"""Compresses a module by steps. Works on a copy: the given module stays as it was."""

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from modelmill.compress import fold
from modelmill.compress.draft import Context, Draft
from modelmill.compress.encode import Compressed, encode
from modelmill.compress.plan import check
from modelmill.compress.steps import perform
from modelmill.compress.worth import warnings
from modelmill.contract.steps import Step


def compress(module: nn.Module, steps: Sequence[Step], context: Context | None = None) -> Compressed:
    """Raises CompressionError for steps that cannot follow each other, that need a context without one, or that fail."""
    check("", steps)
    draft = Draft(module=copy.deepcopy(module).eval())
    folding = fold.place(steps)
    for number, step in enumerate((*steps, None)):
        if context is not None and number == folding:
            fold.fold_norms(draft, context)
        if step is not None:
            perform(step, draft, context)
    made = encode(draft)
    if context is None:
        return made
    told = tuple(warnings(draft, made.weights, context.material))
    return replace(made, notes=tuple(draft.notes), warnings=told)
