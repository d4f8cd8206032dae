"""Parameter migration: the recipe's smaller module, with the trained one's weights in it."""

import torch

from modelmill.compress.draft import Context, Draft
from modelmill.compress.errors import CompressionError
from modelmill.compress.migrate import migrate
from modelmill.contract.steps import Migrate


def run(step: Migrate, draft: Draft, context: Context) -> None:
    if step.method not in ("Select", "Slice", "Average"):
        raise CompressionError(f"migrate.method: {step.method!r} is not known; use Select, Slice or Average")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        student = context.recipe.student()
    made = migrate(student, context.teacher, rule=step.method)  # type: ignore[arg-type]  # one of the three
    draft.module = student.eval().requires_grad_(False)
    draft.notes.append(f"migrated {len(made.mapped)} tensors of the trained model; {len(made.fresh)} begin fresh")
    draft.notes.extend(f"{name}: begins fresh: {reason}" for name, reason in made.fresh.items())
