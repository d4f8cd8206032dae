"""What each kind of step does to a draft: one file each, `run(step, draft, context)`.

Steps that need data raise CompressionError where there is no context.
"""

from modelmill.compress.draft import Context, Draft
from modelmill.compress.steps import distill, low_rank, migrate, prune, quantize, search, share, tune
from modelmill.compress.steps.training import needed
from modelmill.contract.steps import Step


def perform(step: Step, draft: Draft, context: Context | None) -> None:
    """The one thing that the step is (`plan.check` has seen to that)."""
    if step.prune is not None:
        prune.run(step.prune, draft, context)
    elif step.quantize is not None:
        quantize.run(step.quantize, draft, context)
    elif step.share is not None:
        share.run(step.share, draft, context)
    elif step.distill is not None:
        distill.run(step.distill, draft, needed(context, "distill"))
    elif step.migrate is not None:
        migrate.run(step.migrate, draft, needed(context, "migrate"))
    elif step.low_rank is not None:
        low_rank.run(step.low_rank, draft)
    elif step.tune is not None:
        tune.run(step.tune, draft, needed(context, "tune"))
    elif step.search is not None:
        search.run(step.search, draft, needed(context, "search"))
