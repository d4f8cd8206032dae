"""Search: for each layer the kind of compression that a budget of accuracy allows."""

from modelmill.compress.draft import Context, Draft
from modelmill.compress.search import run as searching
from modelmill.contract.steps import Search


def run(step: Search, draft: Draft, context: Context) -> None:
    searching.run(step, draft, context)
