"""Which made-up inputs a module takes, found out on the CPU before it moves to a GPU.

An index out of range, such as a position beyond a table, is an exception on a CPU. On a GPU it ends every later use of the
device by this process, so nothing is tried there that one row has not shown to work.
"""

import logging
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from modelmill.compress.graph.tensors import clone
from modelmill.datatypes import FLOATS, NUMPY, to_bf16
from modelmill.serve.gpu.buckets import LENGTHS
from modelmill.serve.gpu.staging import Staging
from modelmill.serve.rows import Rows
from modelmill.serve.warmup import zeros
from modelmill.signature import Signature

log = logging.getLogger(__name__)
ENOUGH_SECONDS = 2.0
"""A length that would take longer on the CPU is not tried: those beyond it run without a graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    longest: int = 0
    """Of `LENGTHS` the one up to which rows may be padded; 0 where there are no lengths, or none worked."""
    whole: int = 0
    """What whole numbers may be: 1, or only 0."""


def try_out(module: nn.Module, signature: Signature) -> Trial:
    """`module` is on the CPU; it runs on one row a few times. Never raises for what the module does."""
    ragged = any(-1 in tensor.shape[1:] for tensor in signature.inputs)
    if not ragged and all(tensor.datatype in FLOATS for tensor in signature.inputs):
        return Trial()
    # What a forward pass keeps would stay on the CPU.
    probe, first = clone(module), LENGTHS[0]
    whole = next((number for number in (1, 0) if _seconds(probe, signature, first, number)), None)
    # The second run, since a first one pays for more than its length.
    if whole is None or not (each := _seconds(probe, signature, first, whole)):
        return Trial()
    if not ragged:
        return Trial(whole=whole)
    longer = (at for at in reversed(LENGTHS[1:]) if each * at / first < ENOUGH_SECONDS)
    return Trial(longest=next((at for at in longer if _seconds(probe, signature, at, whole)), first), whole=whole)


def _seconds(module: nn.Module, signature: Signature, length: int, whole: int) -> float | None:
    """How long one row took; None when it failed."""
    _, inputs = Staging(signature, _plain).join([made_up(signature, count=1, length=length, whole=whole)])
    began = time.perf_counter()
    try:
        with torch.inference_mode():
            module(*inputs)
    except Exception as error:
        log.debug("the module does not take length %d of the number %d: %s", length, whole, error)
        return None
    return time.perf_counter() - began


def made_up(signature: Signature, *, count: int, length: int, whole: int, seed: int = 0) -> Rows:
    """Rows that differ with `seed` where they are numbers with fractions, from 0 to 1."""
    random = np.random.default_rng(seed)
    rows = zeros(signature, count=count, length=length)
    arrays = {}
    for tensor in signature.inputs:
        array = rows.arrays[tensor.name]
        fractions = random.random(array.shape, dtype=np.float32) if tensor.datatype in FLOATS else np.full(array.shape, whole)
        arrays[tensor.name] = to_bf16(fractions) if tensor.datatype == "BF16" else fractions.astype(NUMPY[tensor.datatype])
    return Rows(arrays, count)


def _plain(size: int) -> torch.Tensor:
    return torch.empty(size, dtype=torch.uint8)
