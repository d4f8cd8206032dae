"""Low rank: layers become two thinner ones where little is lost."""

from modelmill.compress.draft import Draft
from modelmill.compress.lowrank import factor_layers
from modelmill.compress.steps.training import names_of
from modelmill.contract.steps import LowRank


def run(step: LowRank, draft: Draft) -> None:
    paths = [name.rpartition(".")[0] for name in names_of(draft.module)]
    made = factor_layers(draft.module, paths, error=step.max_error)
    draft.structure += made.edits
    draft.notes.extend(f"{path}: two layers, error {error:.3f}" for path, error in made.errors.items())
    draft.notes.extend(f"{path}: stays one layer: {reason}" for path, reason in made.refused.items())
