"""Folders of generative models, as Hugging Face's libraries write them, without any library."""

import json
from pathlib import Path
from typing import Any

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def safetensors(*names: str) -> bytes:
    """A file with one number a tensor."""
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(names)}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4 * len(names))


def write_folder(folder: Path, *, config: Any = CONFIG, shards: bool = False) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "README.md").write_text("# a model")
    if shards:
        (folder / "a.safetensors").write_bytes(safetensors("x", "y"))
        (folder / "b.safetensors").write_bytes(safetensors("z"))
        index = {"weight_map": {"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        (folder / "model.safetensors").write_bytes(safetensors("x"))
    return folder
