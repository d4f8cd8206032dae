"""Whether the steps of a variant can follow each other; told before anything is read, with the step's place in the variant.

The order that works: migrate, then what changes shapes (lowRank, prune with Channels or Heads), then masks (prune),
with training (tune, distill) anywhere up to here, then quantize, then share. Whatever is left out is left out.
Search takes the place of masks, quantize and share.
"""

from collections.abc import Sequence

from modelmill.compress.errors import CompressionError
from modelmill.contract.steps import Prune, Quantize, Search, Step

KINDS = ("prune", "quantize", "share", "distill", "migrate", "low_rank", "tune", "search")
ZEROLESS = ("Binary", "XNOR")
"""Grids without a zero: what pruning took would come back."""


def kind_of(step: Step) -> str:
    """The one field that is set."""
    kinds = [kind for kind in KINDS if getattr(step, kind) is not None]
    if len(kinds) != 1:
        raise CompressionError(f"set exactly one of {', '.join(KINDS)}; this step has {', '.join(kinds) or 'none'}")
    return kinds[0]


def check(name: str, steps: Sequence[Step]) -> None:
    """Raises CompressionError for the first step of variant `name` that cannot follow those before it."""
    for index, step in enumerate(steps):
        try:
            if reason := _objection(step, steps[:index]):
                raise CompressionError(reason)
        except CompressionError as error:
            raise CompressionError(f"variant {name!r}, steps[{index}]: {error}") from None


def _objection(step: Step, before: Sequence[Step]) -> str | None:
    kind, kinds = kind_of(step), [kind_of(earlier) for earlier in before]
    quantize = next((earlier.quantize for earlier in before if earlier.quantize), None)
    if "share" in kinds:
        return f"{kind} cannot follow share, whose values are final; put share last, and once"
    if "search" in kinds:
        return f"{kind} cannot follow search, which has chosen how every weight is stored; put search last, and once"
    if quantize is not None and kind != "share":
        return f"{kind} cannot follow quantize, whose codes are final; put quantize after everything but share, and once"
    if kind == "migrate" and before:
        return f"migrate cannot follow {kinds[-1]}: it begins with another module; put it first, and once"
    if (kind == "low_rank" or _channels(step)) and any(earlier.prune and not _channels(earlier) for earlier in before):
        return f"{_told(step)} changes shapes, and cannot follow a prune step whose zeros it would move; put it first"
    masks = [earlier.prune for earlier in before if earlier.prune and not _channels(earlier)]
    if step.prune is not None:
        return _prune(step.prune, masks)
    if step.quantize is not None:
        return _quantize(step.quantize, masks)
    if step.search is not None:
        return _search(step.search, masks)
    if step.share is not None and quantize is not None:
        return _share(quantize)
    if step.share is not None and any(mask.pattern != "Unstructured" for mask in masks):
        return f"share cannot follow pruning by {masks[-1].pattern}, whose values are stored as int8; leave one of the two out"
    return None


def _prune(step: Prune, masks: Sequence[Prune]) -> str | None:
    if step.method == "Threshold":
        if step.threshold is None or not step.threshold >= 0 or step.threshold == float("inf"):
            return f"prune.threshold: {step.threshold} must be a number >= 0"
    elif step.sparsity is None or not 0 <= step.sparsity < 1:
        return f"prune.sparsity: {step.sparsity} must be a number from 0 to below 1"
    if step.method in ("LearnedMask", "AdaGrad") and step.training is None:
        return f"prune.training: {step.method} decides while training; say how long, such as {{epochs: 1}}"
    if step.method in ("LearnedMask", "AdaGrad") and step.pattern == "2:4":
        return f"prune.pattern: {step.method} learns masks of weights or blocks; use Magnitude, Gradient or Wanda for 2:4"
    if masks and step.pattern != masks[-1].pattern:
        return f"prune.pattern: {step.pattern} cannot follow {masks[-1].pattern}; use one pattern"
    return None


BITS = {"Uniform": (2, 8), "FixedPoint": (2, 8), "DynamicRange": (2, 8), "NormalFloat": (2, 4), "KMeans": (1, 8), "Steps": (1, 4)}
"""Of the methods that leave a choice: the fewest and the most."""


def _quantize(step: Quantize, masks: Sequence[Prune]) -> str | None:
    if step.bits is not None and step.method in BITS and not BITS[step.method][0] <= step.bits <= BITS[step.method][1]:
        low, high = BITS[step.method]
        return f"quantize.bits: {step.method} has {low} to {high}, not {step.bits}"
    if masks and step.method in ZEROLESS:
        return f"quantize.method: {step.method} has no zero, so what was pruned would come back; use Ternary, or do not prune"
    patterned = next((mask.pattern for mask in masks if mask.pattern != "Unstructured"), None)
    plain = step.method == "Uniform" and step.bits in (None, 8) and step.granularity == "Channel" and step.symmetric
    if patterned and not plain:
        return (
            f"quantize: after pruning by {patterned} the kept values are stored as int8 with a scale for each channel; "
            "use method Uniform with bits 8, granularity Channel and symmetric true"
        )
    return None


def _search(step: Search, masks: Sequence[Prune]) -> str | None:
    if step.objective not in ("Latency", "Size"):
        return f"search.objective: {step.objective!r} is not known; use Latency or Size"
    if not 0 <= step.max_drop <= 1:
        return f"search.maxDrop: {step.max_drop} must be a number from 0 to 1"
    if step.evaluations < 1:
        return f"search.evaluations: {step.evaluations} must be 1 or more"
    if masks:
        return (
            f"search cannot follow prune with {masks[-1].method}: it chooses zeros for each layer itself, and a weight has one "
            "pattern; remove the prune step, or use quantize instead of search"
        )
    return None


def _share(quantize: Quantize) -> str | None:
    if quantize.method != "Uniform" or quantize.bits not in (None, 5, 6, 7, 8):
        return f"share cannot follow quantize with {quantize.method} and bits {quantize.bits}: those are few values already"
    return None


def _channels(step: Step) -> bool:
    return step.prune is not None and step.prune.method in ("Channels", "Heads")


def _told(step: Step) -> str:
    return f"prune with {step.prune.method}" if step.prune else "lowRank"
