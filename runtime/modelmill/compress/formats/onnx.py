"""Writes ONNX: the module with decoded weights, traced by torch.export, with a free batch and the signature's free dimensions.

Quantized, weights that are codes stay whole numbers in the file, in front of a DequantizeLinear (operator set 21): INT4 up to
4 bits, INT8 above, a scale a channel or, for linear layers, a group of inputs. Such a file is small; what a runtime computes
with it is its own affair. Groups within a convolution have no such form and stay floats.
Needs the extra `export` (onnx, onnxscript).
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.codes import weight_of
from modelmill.compress.errors import CompressionError
from modelmill.compress.formats.exported import PREFIX, example, free_dimensions, in_order, quiet
from modelmill.compress.formats.module import dense_module
from modelmill.compress.formats.numbers import Numbers, numbers_of
from modelmill.compress.weights import Weight, Weights
from modelmill.signature import Signature

if TYPE_CHECKING:
    import onnx

OPSET = 21


def export(module: nn.Module, weights: Weights, signature: Signature, path: Path, *, quantized: bool = False) -> list[str]:
    """Writes the file; a note for each weight of codes that became floats although `quantized`. Changes the module."""
    _require()
    plain = dense_module(module, weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet("torch.onnx"):
        traced = _traced(plain, signature, optimize=not quantized)
        if not quantized:
            traced.save(str(path))
            return []
        model = traced.model_proto
    notes = quantize(model, weights.tensors)
    import onnx

    onnx.save(model, str(path))
    return notes


def _require() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"exports to ONNX need {' and '.join(missing)}: pip install 'modelmill[export]'")


def _traced(module: nn.Module, signature: Signature, *, optimize: bool) -> Any:
    outputs = [tensor.name for tensor in signature.outputs]
    try:
        traced = torch.onnx.export(
            in_order(module, signature),
            example(signature),
            dynamo=True,
            dynamic_shapes=free_dimensions(signature),
            opset_version=OPSET,
            optimize=optimize,
            verbose=False,
        )
    except Exception as error:  # torch raises whatever its tracer meets
        raise CompressionError(f"torch cannot export this module to ONNX: {error}") from error
    assert traced is not None
    _name(traced.model.graph, inputs=[tensor.name for tensor in signature.inputs], outputs=outputs)
    return traced


def _name(graph: Any, *, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Names of the signature for what goes in and comes out; nothing within may have them, which torch does not see to."""
    edges = dict(zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True))
    for node in graph:
        node.metadata_props.clear()  # Paths and lines of the recipe on the machine that exports.
        for value in node.outputs:
            value.metadata_props.clear()
            if value.name in edges.values():
                value.name = f"{value.name}_within"
    for value, name in edges.items():
        value.name = name


def quantize(model: "onnx.ModelProto", weights: Mapping[str, Weight]) -> list[str]:
    """Puts whole numbers and a DequantizeLinear in the place of every weight of codes; a note for each where that cannot be."""
    import onnx

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    notes: list[str] = []
    nodes = []
    for name, weight in weights.items():
        if not isinstance(weight, CodedWeight):
            continue
        reason = _refusal(weight, stored.get(f"{PREFIX}{name}"))
        if reason is not None:
            notes.append(f"{name}: written as floats, {reason}")
            continue
        found, target = numbers_of(weight), stored[f"{PREFIX}{name}"]
        tensors, settings = _parts(found, name=target.name)
        nodes.append(onnx.helper.make_node("DequantizeLinear", [tensor.name for tensor in tensors], [target.name], **settings))
        model.graph.initializer.remove(target)
        model.graph.initializer.extend(tensors)
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    return notes


def _refusal(weight: CodedWeight, target: "onnx.TensorProto | None") -> str | None:
    if target is None or tuple(target.dims) != weight.shape:
        return "the traced graph has no such tensor any more"
    groups = weight.loose().scale.shape[1]
    return "groups within a convolution have no form there" if groups > 1 and len(weight.shape) > 2 else None


def _parts(found: Numbers, *, name: str) -> tuple[list["onnx.TensorProto"], dict[str, Any]]:
    """Codes, scale and, if there is one, zero; and the settings of the operator."""
    from onnx import TensorProto, helper

    kind = TensorProto.INT4 if found.bits <= 4 else TensorProto.INT8
    groups = found.scale.shape[1]
    by_group = {"axis": 1, "block_size": found.shape[1] // groups}
    settings: dict[str, Any]
    settings, scale = ({"axis": 0}, found.scale.flatten()) if groups == 1 else (by_group, found.scale)
    zero = None if found.zero is None else found.zero.view(scale.shape)

    def whole(end: str, values: torch.Tensor) -> "onnx.TensorProto":
        flat = values.contiguous().flatten()
        return helper.make_tensor(f"{name}{end}", kind, values.shape, _bytes(flat, half=kind == TensorProto.INT4), raw=True)

    numbers = whole("_codes", weight_of(found.numbers, found.shape))
    scales = helper.make_tensor(f"{name}_scale", TensorProto.FLOAT, scale.shape, scale.contiguous().numpy().tobytes(), raw=True)
    return [numbers, scales, *([] if zero is None else [whole("_zero", zero)])], settings


def _bytes(numbers: torch.Tensor, *, half: bool) -> bytes:
    """int8 numbers as they are, or two a byte, the first in its low half."""
    if half:
        even = torch.nn.functional.pad(numbers, (0, numbers.numel() % 2)).view(torch.uint8).view(-1, 2) & 15
        return (even[:, 0] | even[:, 1] << 4).numpy().tobytes()
    return numbers.numpy().tobytes()
