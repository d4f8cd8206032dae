"""Which variant of a version to serve. Pure: a manifest's variants and a wish in, one variant out."""

from collections.abc import Sequence

from modelmill.artifact.errors import VariantNotFound
from modelmill.artifact.manifest import Variant
from modelmill.contract.jobfile import Selection

DENSE = "dense"
QUALITY = ("accuracy", "f1", "recall", "auc")
"""Metrics that tell how good a variant is, all better when higher; the first one that was measured counts."""
_ROUNDING = 1e-9


def choose(variants: Sequence[Variant], wish: Selection) -> Variant:
    """By name, by tier, or the fastest (or smallest) that loses at most `max_drop` against dense (0 when nothing is said)."""
    if wish.name is not None:
        return _by_name(variants, wish.name)
    if wish.tier is not None:
        variants = _of_tier(variants, wish.tier)
    default_order = "Latency" if wish.max_drop is not None or wish.tier is not None else "Size"
    order = _size if (wish.prefer or default_order) == "Size" else _latency
    limit = wish.max_drop if wish.max_drop is not None else (None if wish.tier is not None else 0.0)
    return min(_within(variants, limit), key=order)


def drop(variant: Variant, *, variants: Sequence[Variant]) -> float | None:
    """What the variant loses against dense (against the best one, when dense was not published); None: not measured."""
    metric = next((name for name in QUALITY if any(name in v.metrics for v in variants)), None)
    if metric is None or metric not in variant.metrics:
        return None
    best = max(v.metrics[metric] for v in variants if metric in v.metrics)
    dense = next((v for v in variants if v.name == DENSE), None)
    reference = dense.metrics.get(metric, best) if dense else best
    return reference - variant.metrics[metric]


def _within(variants: Sequence[Variant], limit: float | None) -> list[Variant]:
    if limit is None:
        return list(variants)
    drops = {variant.name: drop(variant, variants=variants) for variant in variants}
    found = [v for v in variants if v.name == DENSE or ((lost := drops[v.name]) is not None and lost <= limit + _ROUNDING)]
    if not found and all(lost is None for lost in drops.values()):
        if len(variants) == 1:  # an imported model: nothing was measured and there is no choice
            return list(variants)
        raise VariantNotFound(f"nothing was measured for variants {_names(variants)}: name one in spec.variant.name")
    if not found:
        told = ", ".join(f"{name} loses {lost:.4f}" for name, lost in drops.items() if lost is not None)
        raise VariantNotFound(f"no variant loses at most {limit}: {told}; raise spec.variant.maxDrop or name a variant")
    return found


def _by_name(variants: Sequence[Variant], name: str) -> Variant:
    for variant in variants:
        if variant.name == name:
            return variant
    raise VariantNotFound(f"there is no variant {name!r}; there are {_names(variants)}")


def _of_tier(variants: Sequence[Variant], tier: str) -> list[Variant]:
    found = [variant for variant in variants if variant.tier == tier]
    if not found:
        tiers = ", ".join(f"{v.name} ({v.tier or 'no tier'})" for v in variants)
        raise VariantNotFound(f"no variant has tier {tier!r}; there are {tiers}")
    return found


def _names(variants: Sequence[Variant]) -> str:
    return ", ".join(variant.name for variant in variants)


def _size(variant: Variant) -> tuple[float, float, str]:
    return (variant.bytes, _millis(variant), variant.name)


def _latency(variant: Variant) -> tuple[float, float, str]:
    return (_millis(variant), variant.bytes, variant.name)


def _millis(variant: Variant) -> float:
    return float("inf") if variant.latency_millis is None else variant.latency_millis
