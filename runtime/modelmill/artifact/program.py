"""Programs made by `torch.export`: a graph with its weights in one .pt2 file, a zip archive of torch's own format.

torch.export.load unpickles what the archive tells it to unpickle, so the archive is read first and refused unless it
holds JSON and raw tensors alone (sample inputs, which torch reads with weights_only, are the one exception). The graph
itself names operators and symbolic expressions that torch evaluates: like a recipe, a program is code that *runs*.
"""

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelmill.artifact.errors import NotPublishable
from modelmill.signature import Signature, Tensor

if TYPE_CHECKING:
    from torch import nn

_ALLOWED = (
    "archive_format",
    "archive_version",
    "byteorder",
    ".data/",
    "models/",
    "data/weights/",
    "data/constants/",
    "data/sample_inputs/",
)
_CONFIGS = ("_weights_config.json", "_constants_config.json")
_MAX_CONFIG_BYTES = 256 << 20
_DATATYPES = {
    "torch.bool": "BOOL",
    "torch.uint8": "UINT8",
    "torch.int8": "INT8",
    "torch.int16": "INT16",
    "torch.int32": "INT32",
    "torch.int64": "INT64",
    "torch.float16": "FP16",
    "torch.bfloat16": "BF16",
    "torch.float32": "FP32",
    "torch.float64": "FP64",
}


def check(path: Path) -> None:
    """Refuses an archive that could make torch unpickle, or that holds machine code."""
    try:
        with zipfile.ZipFile(path) as archive:
            configs = 0
            for info in archive.infolist():
                # Writers put everything in one folder, whose name is theirs.
                name = info.filename.partition("/")[2]
                if not name.startswith(_ALLOWED) or ".." in name:
                    raise NotPublishable(f"{path}: {info.filename!r} has no place in an exported program")
                if name.startswith("models/") and not name.endswith(".json"):
                    raise NotPublishable(f"{path}: {info.filename!r} is no graph in JSON; export it anew with a newer torch")
                if name.startswith(("data/weights/", "data/constants/")):
                    configs += _check_payload(archive, info, path=path)
            if configs == 0:
                raise NotPublishable(f"{path}: it has no list of weights; export it with torch.export.save of torch 2.9 or newer")
    except zipfile.BadZipFile as error:
        raise NotPublishable(f"{path}: not an exported program (.pt2, written by torch.export.save)") from error


def _check_payload(archive: zipfile.ZipFile, info: zipfile.ZipInfo, *, path: Path) -> int:
    """1 for a list of tensors that are all raw, 0 for a raw tensor."""
    if info.filename.endswith(".pt"):
        raise NotPublishable(f"{path}: {info.filename!r} is in a pickled format of old torch releases; export it anew")
    if not info.filename.endswith(_CONFIGS):
        return 0
    if info.file_size > _MAX_CONFIG_BYTES:
        raise NotPublishable(f"{path}: {info.filename!r} has {info.file_size} bytes")
    try:
        listed: dict[str, dict[str, Any]] = json.loads(archive.read(info))["config"]
        for name, payload in listed.items():
            # Anything but an explicit, raw tensor would go through pickle.
            if payload["use_pickle"] is not False or not payload["path_name"].startswith(("weight_", "tensor_")):
                raise NotPublishable(
                    f"{path}: {name!r} is stored as a pickle, which is never read here; keep plain tensors and buffers in "
                    f"the module (no custom objects, no tensor subclasses) and export it anew"
                )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotPublishable(f"{path}: {info.filename!r} cannot be read: {error!r}") from error
    return 1


def load(path: Path) -> Any:
    """The `torch.export.ExportedProgram`, after the check."""
    check(path)
    import torch

    try:
        return torch.export.load(str(path))
    except Exception as error:  # torch raises whatever its deserialiser meets
        raise NotPublishable(f"{path}: torch {torch.__version__} cannot load the program: {error}") from error


def build_module(program: Any) -> "nn.Module":
    """The program's graph as a module, whose weights can be exchanged."""
    module: nn.Module = program.module()
    # torch refuses eval() and train() on exported graphs, because they would change nothing; loaders call them on everything.
    for name in ("eval", "train"):
        vars(module).pop(name, None)
    return module


def signature(program: Any) -> Signature:
    """Inputs and outputs of the graph; each must have the batch as its first dimension, exported as dynamic."""
    nodes = {node.name: node for node in program.graph.nodes}
    results = program.graph_signature.user_outputs
    inputs = [_tensor(name, nodes[name].meta["val"], what="input") for name in program.graph_signature.user_inputs]
    # The graph's own names of results ("linear_1") say nothing to a client.
    names = ["output"] if len(results) == 1 else [f"output_{index}" for index in range(len(results))]
    outputs = [_tensor(name, nodes[result].meta["val"], what="output") for name, result in zip(names, results, strict=True)]
    return Signature(inputs=tuple(inputs), outputs=tuple(outputs))


def _tensor(name: str, value: Any, *, what: str) -> Tensor:
    datatype = _DATATYPES.get(str(getattr(value, "dtype", None)))
    if datatype is None:
        raise NotPublishable(
            f"{what} {name!r}: {getattr(value, 'dtype', type(value).__name__)} is no tensor type that can be served"
        )
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    if not shape or shape[0] != -1:
        raise NotPublishable(
            f"{what} {name!r}: its shape {list(shape)} has no free first dimension; export with "
            f"dynamic_shapes that name the batch, as in ({{0: torch.export.Dim('batch')}},)"
        )
    return Tensor(name=name, datatype=datatype, shape=shape)
