"""The folder of a generative model, as Hugging Face's libraries write it: what of it is published, and what is refused.

Nothing of it is executed or unpickled, here or later: weights are safetensors, everything else is JSON or text, and a
folder that wants code of its own is refused. Files that no server needs (a README, weights in other formats) are left out.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelmill.artifact.errors import NotPublishable

FOLDER = "model"
"""Of a version: where its files are."""
ORIGINAL = "original"
"""The one variant of a generative model: the weights as they were imported."""
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
GENERATIVE = ("ForCausalLM", "ForConditionalGeneration")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "tekken.json", "vocab.json")
"""One of them is needed."""
TEXT_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken")
REMOTE_CODE = "auto_map"
MAX_FILES = 1000
MAX_TEXT_BYTES = 256 << 20
"""Of all files but the weights: large vocabularies have tens of megabytes."""
MAX_HEADER_BYTES = 100 << 20
"""As the safetensors library has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerativeFolder:
    texts: tuple[Path, ...]
    """config.json, tokenizer, chat template and the like."""
    weights: tuple[Path, ...]
    """safetensors"""


def read(folder: Path) -> GenerativeFolder:
    """What is published of a folder. Raises NotPublishable, with what is wrong and what to do."""
    if not folder.is_dir():
        raise NotPublishable(f"{folder}: there is no such folder")
    texts = _texts(folder)
    contents = {path.name: _parsed(path) for path in texts if path.suffix == ".json"}
    _check_config(folder, contents.get(CONFIG))
    for name, content in contents.items():
        if REMOTE_CODE in _keys(content):
            raise NotPublishable(
                f"{folder / name}: {REMOTE_CODE!r} asks for code from the model's author, which is never run here: use a model "
                f"that transformers and vLLM know by themselves"
            )
    if not any(name in TOKENIZERS for name in (path.name for path in texts)):
        raise NotPublishable(f"{folder}: there is no tokenizer: add one of {', '.join(TOKENIZERS)}")
    return GenerativeFolder(texts=texts, weights=_weights(folder, contents.get(INDEX)))


def _texts(folder: Path) -> tuple[Path, ...]:
    found = tuple(path for path in sorted(folder.iterdir()) if path.suffix in TEXT_SUFFIXES and not path.name.startswith("."))
    found = tuple(_own_file(folder, path.name) for path in found if path.is_file() or path.is_symlink())
    size = sum(path.stat().st_size for path in found)
    if len(found) > MAX_FILES or size > MAX_TEXT_BYTES:
        raise NotPublishable(
            f"{folder}: {len(found)} files with {size} bytes beside the weights, at most {MAX_FILES} files and {MAX_TEXT_BYTES} "
            f"bytes are published: leave only what the model needs"
        )
    return found


def _own_file(folder: Path, name: str) -> Path:
    """A file of the folder. A link may lead to its neighbours and into the download cache that the folder belongs to."""
    path, home = folder / name, folder.resolve()
    if Path(name).name != name or not path.is_file():
        raise NotPublishable(f"{folder}: the file {name!r} is not there: download the whole model again")
    if path.resolve().parent not in (home, home.parent.parent / "blobs"):
        raise NotPublishable(f"{path}: it is a link that leads out of the model's folder: put the file itself there")
    return path


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise NotPublishable(f"{path}: not JSON: {error}") from error


def _check_config(folder: Path, config: Any) -> None:
    names = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise NotPublishable(f"{folder}: a {CONFIG} with 'architectures' is needed, as transformers' save_pretrained writes it")
    if not any(name.endswith(GENERATIVE) for name in names):
        raise NotPublishable(
            f"{folder / CONFIG}: {', '.join(names)} does not generate text, which takes *{' or *'.join(GENERATIVE)}: "
            f"import other models with --weights and a recipe"
        )


def _keys(content: Any) -> Iterator[str]:
    """Of all objects in the content, however deep."""
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from value
            left += value.values()
        elif isinstance(value, list):
            left += value


def _weights(folder: Path, index: Any) -> tuple[Path, ...]:
    if index is None and not (folder / WEIGHTS).exists():
        others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5"))
        there = f"only {', '.join(others[:3])} are" if others else "no weights are"
        raise NotPublishable(
            f"{folder}: {there} there: weights must be safetensors, {WEIGHTS} or the files of {INDEX}, because other formats can "
            f"hold code; transformers' save_pretrained writes them"
        )
    if index is None:
        return (_checked(folder, WEIGHTS, wanted=set()),)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise NotPublishable(f"{folder / INDEX}: 'weight_map' does not say which tensor is in which file")
    names = sorted(set(places.values()))
    return tuple(_checked(folder, name, wanted={key for key in places if places[key] == name}) for name in names)


def _checked(folder: Path, name: str, *, wanted: set[str]) -> Path:
    """A file of weights that is one, whole, with the tensors that the index finds in it."""
    path = _own_file(folder, name)
    if path.suffix != ".safetensors":
        raise NotPublishable(f"{path}: weights must be safetensors")
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = stream.read(size) if size <= MAX_HEADER_BYTES else b""
    try:
        tensors = {key: value for key, value in json.loads(header).items() if key != "__metadata__"}
        whole = 8 + size + max((value["data_offsets"][1] for value in tensors.values()), default=0)
    except (ValueError, RecursionError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise NotPublishable(f"{path}: not a safetensors file: {error!r}") from error
    if whole != path.stat().st_size:
        raise NotPublishable(f"{path}: it has {path.stat().st_size} bytes, its header tells of {whole}: download it again")
    if missing := wanted - tensors.keys():
        raise NotPublishable(f"{path}: it lacks {min(missing)}, which {INDEX} finds in it: download the whole model again")
    return path
