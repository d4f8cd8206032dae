"""Does a module keep what its signature promises? Asked before any GPU is held, and by whoever imports a model.

The module is run on zeros, two rows, wherever the signature fixes all dimensions but the batch.
"""

import torch
from torch import nn

from modelmill.recipe.base import RecipeError
from modelmill.signature import Signature, Tensor

TORCH = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}
"""The dtype of each of the signature's datatypes that a tensor can have."""
ROWS = 2


def check_datatypes(signature: Signature) -> None:
    for tensor in (*signature.inputs, *signature.outputs):
        if tensor.datatype not in TORCH:
            raise RecipeError(
                f"signature(): {tensor.name!r} is {tensor.datatype}, which no module computes on; declare it in "
                f"service_signature() and turn it into numbers in preprocess(), or numbers into it in postprocess()"
            )


def check_signature(module: nn.Module, signature: Signature) -> None:
    """Runs the module on zeros of the signature's inputs, and compares what comes out."""
    check_datatypes(signature)
    if any(-1 in tensor.shape[1:] for tensor in signature.inputs):
        return
    zeros = [torch.zeros((ROWS, *tensor.shape[1:]), dtype=TORCH[tensor.datatype]) for tensor in signature.inputs]
    shapes = ", ".join(str(list(tensor.shape)) for tensor in signature.inputs)
    module.eval()
    try:
        with torch.no_grad():
            outputs = module(*zeros)
    except Exception as error:
        raise RecipeError(f"model() cannot take the inputs that signature() promises ({shapes}): {error}") from error
    found = tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)
    if len(found) != len(signature.outputs):
        raise RecipeError(f"signature(): {len(signature.outputs)} outputs are promised, model() returns {len(found)}")
    for promised, tensor in zip(signature.outputs, found, strict=True):
        check_tensor(promised, tensor, what="output", rows=ROWS)


def check_tensor(promised: Tensor, found: object, *, what: str, rows: int) -> None:
    """One tensor against its promise: datatype and every dimension that is not free."""
    if not isinstance(found, torch.Tensor):
        raise RecipeError(f"{what} {promised.name!r}: expected a tensor, got a {type(found).__name__}")
    wanted = (rows, *promised.shape[1:])
    fits = len(wanted) == found.dim() and all(w in (-1, f) for w, f in zip(wanted, found.shape, strict=True))
    if not fits:
        raise RecipeError(f"{what} {promised.name!r}: signature() promises {[-1, *promised.shape[1:]]}, got {list(found.shape)}")
    if promised.datatype in TORCH and found.dtype != TORCH[promised.datatype]:
        raise RecipeError(f"{what} {promised.name!r}: signature() promises {promised.datatype}, got {found.dtype}")
