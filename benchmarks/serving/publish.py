"""Publishes the workloads with the code of `modelmill import`, and runs each once in process for the right answers.

Its own process: the comparison itself never imports torch, whose shared pages would make servers look smaller.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.serving import models, workloads
from benchmarks.serving.models import cnn, encoder
from benchmarks.serving.ours import BF16_MODEL, CNN_BF16_MODEL, INT8_MODEL
from benchmarks.serving.venvs import encoder_weights
from modelmill.artifact.import_ import Source, import_model
from modelmill.artifact.registry import Registry
from modelmill.compress.pipeline import compress
from modelmill.compress.weights import write_weights
from modelmill.contract.steps import Quantize, Step

BF16 = Quantize(method="BFloat16")
VARIANTS = {INT8_MODEL: ("encoder", Quantize(bits=7)), BF16_MODEL: ("encoder", BF16), CNN_BF16_MODEL: ("cnn", BF16)}
"""Of which workload. int8 with codes of 7 bits: what runs fast without VNNI, and what other libraries call reduced range."""
RECIPES = {"mlp": "Mlp", "encoder": "Encoder", "cnn": "Cnn", "big": "Big"}


def publish(name: str, folder: Path) -> None:
    """Leaves the weights, the version in the registry, and the checked rows' answers."""
    module = _module(name)
    weights = folder / f"{name}.safetensors"
    save_file(module.state_dict(), weights)
    shutil.copytree(Path(models.__file__).parent, folder / "recipe" / "models", dirs_exist_ok=True)
    np.save(folder / f"{name}.npy", _answers(module, workloads.find(name)))
    _import(name, weights, folder, entrypoint=f"models.recipes:{RECIPES[name]}")
    if name == "encoder":
        for variant in (INT8_MODEL, BF16_MODEL):
            publish_variant(variant, folder)


def publish_variant(variant: str, folder: Path) -> None:
    """After its workload."""
    name, quantize = VARIANTS[variant]
    weights = folder / f"{variant}.safetensors"
    write_weights(weights, compress(_module(name), (Step(quantize=quantize),)).weights)
    _import(variant, weights, folder, entrypoint=f"models.recipes:{RECIPES[name]}")


def _import(name: str, weights: Path, folder: Path, *, entrypoint: str) -> None:
    source = Source(weights=weights, recipe=folder / "recipe", entrypoint=entrypoint)
    import_model(Registry(url=f"file://{folder}/registry", namespace="default"), name, source=source, channel="stable")


def _module(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "cnn":
        return cnn.random_weights()
    module = models.MODULES[name]().eval()
    if name == "encoder":
        module.load_state_dict(encoder.from_bert(load_file(encoder_weights())))
    return module


def _answers(module: nn.Module, workload: workloads.Workload) -> workloads.Array:
    """[rows, outputs]: each row alone, fp32."""
    with torch.inference_mode():
        rows = workload.all_rows()[: workloads.CHECKED]
        return np.concatenate([module(*(torch.from_numpy(array) for array in row.values())).numpy() for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    for name in arguments.names:
        (publish_variant if name in VARIANTS else publish)(name, arguments.folder)


if __name__ == "__main__":
    main()
