"""From the steps of a variant to what is done to every weight: prune any number of times, then quantise at most once.

Steps that cannot follow each other are refused here, before anything is read, with the step's place in the variant.
"""

import math
from dataclasses import dataclass

from modelmill.compress.codecs import bfloat16, dense, uniform
from modelmill.compress.errors import CompressionError
from modelmill.contract.jobfile import Prune, Quantize, Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    thresholds: tuple[float, ...] = ()
    codec: str = dense.NAME


def plan(variant: Variant) -> Plan:
    """The variant's steps in the order given; none leaves the model as it was trained."""
    thresholds: list[float] = []
    codec = dense.NAME
    for index, step in enumerate(variant.steps):
        where = f"variant {variant.name!r}, steps[{index}]"
        if (step.prune is None) == (step.quantize is None):
            raise CompressionError(f"{where}: set exactly one of prune and quantize")
        if codec != dense.NAME:
            after = "prune" if step.prune else "quantize"
            raise CompressionError(f"{where}: {after} cannot follow quantize, whose codes are final; put quantize last, and once")
        if step.prune:
            thresholds.append(_threshold(step.prune, where=where))
        elif step.quantize:
            codec = _codec(step.quantize, where=where)
    return Plan(thresholds=tuple(thresholds), codec=codec)


def _threshold(step: Prune, *, where: str) -> float:
    if step.method != "Threshold":
        raise CompressionError(f"{where}.prune.method: {step.method!r} is not there yet; use Threshold")
    if not (math.isfinite(step.threshold) and step.threshold >= 0):
        raise CompressionError(f"{where}.prune.threshold: {step.threshold} must be a number >= 0")
    return step.threshold


def _codec(step: Quantize, *, where: str) -> str:
    if step.method == "BFloat16":
        return bfloat16.NAME
    if step.method != "Uniform":
        raise CompressionError(f"{where}.quantize.method: {step.method!r} is not there yet; use Uniform or BFloat16")
    if step.bits != uniform.BITS:
        raise CompressionError(f"{where}.quantize.bits: {step.bits} is not there yet; use {uniform.BITS}")
    return uniform.NAME
