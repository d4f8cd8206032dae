"""Training on, with everything that was taken away staying away."""

from modelmill.compress.draft import Context, Draft
from modelmill.compress.steps.training import train
from modelmill.contract.steps import Training


def run(step: Training, draft: Draft, context: Context) -> None:
    train(step, draft, context, label="tune")
