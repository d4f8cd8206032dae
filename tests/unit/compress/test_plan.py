"""Steps of a variant: what they become, and what is refused."""

import math

import pytest

from modelmill.compress.errors import CompressionError
from modelmill.compress.plan import check
from modelmill.contract.steps import Distill, LowRank, Migrate, Prune, Quantize, Search, Share, Step, Training

INT8 = Step(quantize=Quantize())


def pruned(threshold: float) -> Step:
    return Step(prune=Prune(method="Threshold", threshold=threshold))


def patterned(pattern: str) -> Step:
    return Step(prune=Prune(sparsity=0.5, pattern=pattern))


CHANNELS = Step(prune=Prune(method="Channels", sparsity=0.5))
DISTILL, LOW_RANK, MIGRATE, SHARE = (
    Step(distill=Distill()),
    Step(low_rank=LowRank()),
    Step(migrate=Migrate()),
    Step(share=Share()),
)
SEARCH = Step(search=Search(max_drop=0.01))
TERNARY, BINARY = (Step(quantize=Quantize(method=method)) for method in ("Ternary", "Binary"))


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (INT8,),
        (pruned(0.1), pruned(0.2), INT8),
        (MIGRATE, LOW_RANK, CHANNELS, DISTILL, pruned(0.1), Step(tune=Training()), INT8, SHARE),
        (patterned("16x1"), DISTILL, INT8),
        (pruned(0.1), TERNARY),
        (pruned(0.1), SHARE),
        (SEARCH,),
        (MIGRATE, LOW_RANK, CHANNELS, DISTILL, Step(tune=Training()), SEARCH),
    ],
)
def test_steps_that_compose_are_let_through(steps: tuple[Step, ...]) -> None:
    check("v", steps)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ((INT8, pruned(0.1)), r"'v', steps\[1\]: prune cannot follow quantize"),
        ((INT8, INT8), r"steps\[1\]: quantize cannot follow quantize"),
        ((SHARE, DISTILL), r"steps\[1\]: distill cannot follow share"),
        ((Step(),), r"steps\[0\]: set exactly one of prune, .* has none"),
        ((Step(prune=Prune(), quantize=Quantize()),), r"steps\[0\]: set exactly one .* has prune, quantize"),
        ((pruned(-1.0),), r"prune.threshold: -1.0 must be a number >= 0"),
        ((pruned(math.nan),), r"prune.threshold: nan"),
        ((pruned(math.inf),), r"prune.threshold: inf"),
        ((Step(prune=Prune(sparsity=1.0)),), r"prune.sparsity: 1.0"),
        ((Step(prune=Prune(method="AdaGrad", sparsity=0.5)),), r"prune.training: AdaGrad decides while training"),
        (
            (Step(prune=Prune(method="AdaGrad", sparsity=0.5, pattern="2:4", training=Training())),),
            r"prune.pattern: AdaGrad learns masks of weights or blocks",
        ),
        ((pruned(0.1), CHANNELS), r"steps\[1\]: prune with Channels changes shapes"),
        ((pruned(0.1), LOW_RANK), r"steps\[1\]: lowRank changes shapes"),
        ((DISTILL, MIGRATE), r"steps\[1\]: migrate cannot follow distill"),
        ((Step(quantize=Quantize(method="NormalFloat", bits=8)),), r"quantize.bits: NormalFloat has 2 to 4, not 8"),
        ((pruned(0.1), BINARY), r"steps\[1\]: quantize.method: Binary has no zero"),
        ((patterned("16x1"), TERNARY), r"after pruning by 16x1 the kept values are stored as int8"),
        ((patterned("2:4"), SHARE), r"share cannot follow pruning by 2:4"),
        ((patterned("2:4"), patterned("16x1")), r"prune.pattern: 16x1 cannot follow 2:4"),
        ((TERNARY, SHARE), r"share cannot follow quantize with Ternary"),
        ((SEARCH, INT8), r"steps\[1\]: quantize cannot follow search, which has chosen"),
        ((SEARCH, SHARE), r"steps\[1\]: share cannot follow search"),
        ((INT8, SEARCH), r"steps\[1\]: search cannot follow quantize, whose codes are final"),
        ((patterned("16x1"), SEARCH), r"search cannot follow prune with Magnitude: it chooses zeros for each layer itself"),
        ((Step(search=Search(max_drop=-0.1)),), r"search.maxDrop: -0.1 must be a number from 0 to 1"),
        ((Step(search=Search(max_drop=math.nan)),), r"search.maxDrop: nan"),
        ((Step(search=Search(max_drop=0.1, objective="Speed")),), r"search.objective: 'Speed' is not known; use Latency or Size"),
        ((Step(search=Search(max_drop=0.1, evaluations=0)),), r"search.evaluations: 0 must be 1 or more"),
    ],
)
def test_steps_that_cannot_be_done_are_refused_with_their_place(steps: tuple[Step, ...], told: str) -> None:
    with pytest.raises(CompressionError, match=told):
        check("v", steps)
