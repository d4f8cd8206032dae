"""A model that gains by being compiled, published and compiled once for all tests that ask for it."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from modelmill.artifact.amend import publish_compiled
from modelmill.artifact.compiled import Compiled
from modelmill.artifact.import_ import Source, import_model
from modelmill.artifact.open import OpenedVersion, open_version
from modelmill.artifact.registry import Committed, Registry
from modelmill.compress.apply import load_variant

WORDS, LONGEST, SIZE = 20, 12, 8
RECIPE = f"""
import torch
from torch import nn

from modelmill import Recipe, Signature, Tensor


class Steps(nn.Module):
    def __init__(self, sign):
        super().__init__()
        self.words, self.places = nn.Embedding({WORDS}, {SIZE}), nn.Embedding({LONGEST}, {SIZE})
        self.last, self.sign = nn.Linear({SIZE}, 2), sign

    def forward(self, ids, weights):
        x = self.words(ids) + self.places.weight[: ids.shape[1]]
        for _ in range(16):
            x = torch.relu(x * self.sign) * 0.5 + 0.25
        return {{"mean": self.last((x * weights[..., None]).mean(1)), "largest": x.amax((1, 2))}}


class Text(Recipe):
    def model(self):
        return Steps(self.hyperparameters.get("sign", 1.0))

    def signature(self):
        inputs = Tensor(name="ids", datatype="INT64", shape=(-1, -1)), Tensor(name="weights", shape=(-1, -1))
        return Signature(inputs=inputs, outputs=(Tensor(name="largest", shape=(-1,)), Tensor(name="mean", shape=(-1, 2))))
"""


def registry_at(folder: Path) -> Registry:
    return Registry(url=f"file://{folder}/registry", namespace="default")


def published(folder: Path, *, recipe: str = RECIPE, entrypoint: str = "recipe:Text", **hyperparameters: Any) -> Committed:
    """The next version of the model `text`, with the weights of the first one."""
    sources, weights = folder / "recipe", folder / "weights.safetensors"
    sources.mkdir(exist_ok=True)
    (sources / "recipe.py").write_text(recipe)
    if not weights.exists():
        save_file(_weights(), weights)
    source = Source(weights=weights, recipe=sources, entrypoint=entrypoint, hyperparameters=hyperparameters)
    return import_model(registry_at(folder), "text", source=source, channel="stable")


def _weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = nn.ModuleDict(
        {"words": nn.Embedding(WORDS, SIZE), "places": nn.Embedding(LONGEST, SIZE), "last": nn.Linear(SIZE, 2)}
    )
    return module.state_dict()


def compile_in_a_process_of_its_own(folder: Path, *arguments: str) -> str:
    """What it prints. Compilers leave threads and caches behind, which no other test should meet."""
    command = [sys.executable, "-m", "modelmill.cli", "compile", *arguments, "--registry", f"{folder}/registry"]
    done = subprocess.run(command, env={**os.environ, "HOME": str(folder)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def opened(folder: Path, version: int, *, into: Path) -> OpenedVersion:
    registry = registry_at(folder)
    digest = registry.read_manifest("text", version).digest
    return open_version(
        registry.url, namespace="default", model="text", version=version, digest=digest, variant="dense", into=into
    )


def plain_of(version: OpenedVersion) -> nn.Module:
    return load_variant(version.build()[0], version.weights)


def copied(folder: Path, to: Path) -> Path:
    """Its own copy of what a folder has, for a test that changes it."""
    return Path(shutil.copytree(folder, to / "copy"))


def amended(folder: Path, change: Callable[[Compiled], Compiled] = lambda it: it, *, library: bytes | None = None) -> int:
    """The number of the newest version again, with what `change` says of version 2's machine code, or with other code."""
    registry = registry_at(folder)
    found = registry.read_manifest("text", 2).manifest.variants[0].compiled[0]
    base = registry.read_manifest("text", registry.versions("text")[-1]).manifest
    bare = dataclasses.replace(
        base,
        variants=tuple(dataclasses.replace(one, compiled=()) for one in base.variants),
        files=tuple(file for file in base.files if not file.path.startswith("compiled/")),
    )
    path = folder / "library.so"
    original = Path(folder, "registry/default/text/2", found.file).read_bytes()
    path.write_bytes(original if library is None else library)
    return publish_compiled(registry, bare, variant="dense", compiled=change(found), library=path).manifest.version
