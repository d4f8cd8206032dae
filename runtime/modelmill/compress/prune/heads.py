"""Attention with fewer heads, or with narrower ones: rows of query, key and value go, and the columns that read them.

    whole heads: the smallest are removed, and the whole number that says how many there are becomes smaller
    dimensions:  every head keeps the same number of its dimensions, for a model whose number of heads is fixed:
                 of value, those with the largest ||v_d|| * ||o_d||; of query and key, those with the largest ||q_d|| * ||k_d||

A head without its value adds nothing, and a dimension of zeros adds nothing to a product, so both equal the model with zeros
there, which is proven on the example. Attention divides by sqrt(d): where that comes from the size, the query is
multiplied by sqrt(d_new / d_old), which keeps the products as they were. Source: Michel, Levy, Neubig 2019,
"Are Sixteen Heads Really Better than One?" (their importance is the gate's gradient; here it is the norm of the weights).
"""

import copy
import math
from typing import Any

import torch
from torch import nn

from modelmill.compress.errors import CompressionError
from modelmill.compress.layers import resized
from modelmill.compress.prune.attention import Attention, attentions
from modelmill.compress.prune.channels.cost import multiplications
from modelmill.compress.prune.channels.example import Run, difference, runner
from modelmill.compress.prune.masks import largest_of_rows
from modelmill.compress.prune.structured import Pruned, prove, resizes
from modelmill.compress.structure import SetAttribute

def prune_heads(module: nn.Module, example: Any, *, keep: int) -> Pruned:
    """The module with `keep` heads in each attention. CompressionError where that cannot be done anywhere."""
    return _prune(module, example, heads=None, keep=keep)


def prune_head_dimensions(module: nn.Module, example: Any, *, heads: int, keep: int) -> Pruned:
    """The module with `keep` dimensions in each of the `heads` of each attention, which stay as many as they are."""
    return _prune(module, example, heads=heads, keep=keep)


def _prune(module: nn.Module, example: Any, *, heads: int | None, keep: int) -> Pruned:
    found, refused = attentions(module, heads=heads)
    made, run = copy.deepcopy(module).eval(), runner(example)[1]
    before = sum(multiplications(made, run).values())
    sizes: dict[str, tuple[int, int]] = {}
    for attention in found:
        whole = heads is None
        now = attention.heads if whole else _linear(made, attention.value).out_features // attention.heads
        if not 1 <= keep < now:
            refused[attention.path] = f"has {now} {'heads' if whole else 'dimensions in a head'}; {keep} cannot be kept"
            continue
        smaller = _smaller(made, attention, run, keep=keep, whole=whole)
        if isinstance(smaller, str):
            refused[attention.path] = smaller
        else:
            made, sizes[attention.path] = smaller, (now, keep)
    if not sizes:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in list(refused.items())[:3])
        raise CompressionError(f"no attention can be pruned: {reasons or 'none was found'}")
    told = [
        SetAttribute(path=attention.path, name=attention.attribute, value=keep)
        for attention in found
        if attention.attribute and attention.path in sizes
    ]
    edits = (*resizes(module, made), *told)
    prove(module, made, edits)
    after = sum(multiplications(made, run).values())
    made.train(module.training)
    return Pruned(module=made, edits=edits, macs_before=before, macs_after=after, channels=sizes, refused=refused)


@torch.no_grad()
def _smaller(module: nn.Module, attention: Attention, run: Run, *, keep: int, whole: bool) -> nn.Module | str:
    """The module with this attention pruned, or why it cannot be."""
    read, seen = _kept(module, attention, keep=keep, whole=whole)
    masked = copy.deepcopy(module)
    for path, kept in ((attention.query, read), (attention.key, read), (attention.value, seen)):
        layer = _linear(masked, path)
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensor[~kept] = 0
    wanted = run(masked)
    trial = copy.deepcopy(module)
    _narrow(trial, attention.query, rows=read)
    _narrow(trial, attention.key, rows=read)
    _narrow(trial, attention.value, rows=seen)
    _narrow(trial, attention.output, columns=seen)
    if attention.attribute:
        setattr(trial.get_submodule(attention.path), attention.attribute, keep)
    reason: str | None = None
    # Some models divide by the root of the size of now, others by a number they were made with; the example tells.
    for factor in (1.0,) if whole else (math.sqrt(int(read.sum()) / len(read)), 1.0):
        scaled = copy.deepcopy(trial)
        query = _linear(scaled, attention.query)
        for tensor in (query.weight, query.bias):
            if tensor is not None:
                tensor.mul_(factor)
        try:
            reason = difference(run(scaled), wanted)
        except (RuntimeError, ValueError) as error:
            return f"the model cannot compute with less of it: {str(error).splitlines()[0]}"
        if reason is None:
            return scaled
    return reason or "nothing was tried"


def _kept(module: nn.Module, attention: Attention, *, keep: int, whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """bool [width] twice: which rows of query and key are kept, and which of value."""
    query, key, value, output = (
        _linear(module, path).weight for path in (attention.query, attention.key, attention.value, attention.output)
    )
    seen = (value.square().sum(1) * output.square().sum(0)).view(attention.heads, -1)
    if whole:
        heads = value.square().sum(1).view(attention.heads, -1).sum(1) * output.square().sum(0).view(attention.heads, -1).sum(1)
        rows = largest_of_rows(heads, keep=keep).repeat_interleave(seen.shape[1])
        return rows, rows
    read = (query.square().sum(1) * key.square().sum(1)).view(attention.heads, -1)
    return largest_of_rows(read, keep=keep).flatten(), largest_of_rows(seen, keep=keep).flatten()


def _narrow(module: nn.Module, path: str, *, rows: torch.Tensor | None = None, columns: torch.Tensor | None = None) -> None:
    """The layer with only these outputs, or inputs."""
    layer = _linear(module, path)
    inputs, outputs = (None if kept is None else int(kept.sum()) for kept in (columns, rows))
    made: Any = resized(layer, inputs=inputs, outputs=outputs, where=path)
    made.weight.copy_(layer.weight[rows] if columns is None else layer.weight[:, columns])
    if layer.bias is not None:
        made.bias.copy_(layer.bias if rows is None else layer.bias[rows])
    module.set_submodule(path, made)


def _linear(module: nn.Module, path: str) -> nn.Linear:
    layer = module.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    return layer
