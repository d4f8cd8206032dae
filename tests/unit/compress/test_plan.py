"""Steps of a variant: what they become, and what is refused."""

import math

import pytest

from modelmill.compress.errors import CompressionError
from modelmill.compress.plan import Plan, plan
from modelmill.contract.jobfile import Prune, Quantize, Step, Variant

INT8 = Step(quantize=Quantize())


def pruned(threshold: float) -> Step:
    return Step(prune=Prune(threshold=threshold))


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ((), Plan()),
        ((INT8,), Plan(codec="uniform-int8")),
        ((pruned(0.1),), Plan(thresholds=(0.1,))),
        ((pruned(0.1), pruned(0.2), INT8), Plan(thresholds=(0.1, 0.2), codec="uniform-int8")),
    ],
)
def test_steps_that_compose_become_a_plan(steps: tuple[Step, ...], wanted: Plan) -> None:
    assert plan(Variant(name="v", steps=steps)) == wanted


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ((INT8, pruned(0.1)), r"'v', steps\[1\]: prune cannot follow quantize"),
        ((INT8, INT8), r"steps\[1\]: quantize cannot follow quantize"),
        ((Step(),), r"steps\[0\]: set exactly one of prune and quantize"),
        ((Step(prune=Prune(), quantize=Quantize()),), r"steps\[0\]: set exactly one"),
        ((Step(quantize=Quantize(bits=4)),), r"steps\[0\].quantize.bits: 4 is not there yet; use 8"),
        ((Step(quantize=Quantize(method="NonUniform")),), r"quantize.method: 'NonUniform' is not there yet; use Uniform"),
        ((Step(prune=Prune(method="Structured")),), r"prune.method: 'Structured' is not there yet; use Threshold"),
        ((pruned(-1.0),), r"prune.threshold: -1.0 must be a number >= 0"),
        ((pruned(math.nan),), r"prune.threshold: nan"),
        ((pruned(math.inf),), r"prune.threshold: inf"),
    ],
)
def test_steps_that_cannot_be_done_are_refused_with_their_place(steps: tuple[Step, ...], told: str) -> None:
    with pytest.raises(CompressionError, match=told):
        plan(Variant(name="v", steps=steps))
