"""Publishes a model that was not trained here: weights with the recipe that rebuilds the module, an exported program, or
the folder of a generative model.

A generative model is published as it is. Other weights are loaded into the module once, before anything is published, and
written anew in the order and alignment that serving likes. Nothing was measured, so gates that compare with such a version
have no figures to compare with.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelmill import storage
from modelmill.artifact import generative, huggingface, program
from modelmill.artifact.code import FOLDER
from modelmill.artifact.errors import NotPublishable
from modelmill.artifact.manifest import PROGRAM, RECIPE, Code, File, Lineage, Manifest, Variant
from modelmill.artifact.publish import this_release, upload_code, upload_file
from modelmill.artifact.registry import Claim, Committed, Registry
from modelmill.artifact.select import DENSE

if TYPE_CHECKING:
    from torch import nn

    from modelmill.signature import Signature

_PROGRAM_PATH = f"{FOLDER}/program.pt2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A recipe's folder and weights, or a program, or a generative model's folder."""

    weights: Path | None = None
    """A safetensors file, or a folder with one and a config.json that says how it is quantized."""
    recipe: Path | None = None
    entrypoint: str | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    program: Path | None = None
    """A .pt2 file."""
    generative: Path | None = None
    """A folder of a causal language model in Hugging Face's form."""


def import_model(registry: Registry, model: str, *, source: Source, channel: str | None) -> Committed:
    """Publishes the source as the model's next version, and points the channel to it."""
    if source.generative is not None:
        committed = _publish_generative(registry, model, source)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            weights = Path(scratch, f"{DENSE}.safetensors")
            signature, service = _prepare(source, weights)
            committed = _publish(registry, model, source=source, weights=weights, signature=signature, service=service)
    if channel is not None:
        registry.promote(model, channel, committed.pointer)
    return committed


def _publish_generative(registry: Registry, model: str, source: Source) -> Committed:
    assert source.generative is not None
    if source.weights or source.recipe or source.entrypoint or source.program or source.hyperparameters:
        raise NotPublishable("a generative model is its folder alone: give no weights, recipe, hyperparameters or program")
    folder = huggingface.read(source.generative)
    with _claimed(registry, model) as claim:
        return registry.commit(claim, generative.upload(registry, claim, model, folder))


@contextmanager
def _claimed(registry: Registry, model: str) -> Iterator[Claim]:
    """A number; what was stored under it goes when no version came of it."""
    claim = registry.claim(model)
    try:
        yield claim
    except BaseException:
        if not storage.exists(registry.manifest_url(model, claim.version)):
            storage.remove_tree(registry.version_url(model, claim.version))
        raise


def _prepare(source: Source, weights: Path) -> "tuple[Signature, Signature | None]":
    """Writes the weights file and tries it on the module; the module's signature, and that for clients where it is another."""
    if source.program is not None:
        if source.weights or source.recipe or source.entrypoint:
            raise NotPublishable("a program holds its code and weights: give either a program, or weights with a recipe")
        loaded = program.load(source.program)
        module = program.build_module(loaded)
        _write(module, None, weights)
        return program.signature(loaded), None
    if not (source.weights and source.recipe and source.entrypoint):
        raise NotPublishable(
            "give weights, a recipe's folder and its entrypoint (module:Class), or one exported program, or a generative model"
        )
    if not source.weights.exists():
        raise NotPublishable(f"weights {source.weights}: there is no such file or folder")
    from modelmill.recipe.check import check_datatypes
    from modelmill.recipe.load import load_recipe, processes

    recipe = load_recipe(source.recipe, source.entrypoint, source.hyperparameters)
    check_datatypes(recipe.signature())
    _write(recipe.model(), source.weights, weights)
    return recipe.signature(), recipe.service_signature() if processes(recipe) else None


def _write(module: "nn.Module", source: Path | None, target: Path) -> None:
    """The module's own weights or those of the source, in the module's floating point type, into `target`."""
    from modelmill.compress.apply import load_variant
    from modelmill.compress.codecs import dense
    from modelmill.compress.formats.folder import read_any
    from modelmill.compress.select import select
    from modelmill.compress.state import tensors_of
    from modelmill.compress.weights import Plain, Weight, write_weights

    expected = tensors_of(module)
    stored = read_any(source) if source else None
    weights: dict[str, Weight] = stored.tensors if stored else {name: Plain(data=tensor) for name, tensor in expected.items()}
    kept = select(module).kept
    for name, weight in weights.items():
        if not isinstance(weight, Plain) and name in kept:  # an embedding, which others quantize too
            weights[name] = Plain(data=weight.decode())
    for name, weight in weights.items():
        if isinstance(weight, Plain) and weight.codec == dense.NAME and name in expected:
            wanted = expected[name].dtype
            if wanted.is_floating_point and weight.data.is_floating_point():
                weights[name] = Plain(data=weight.data.to(wanted))
    write_weights(target, weights, structure=stored.structure if stored else ())
    load_variant(module, target)


def _publish(
    registry: Registry, model: str, *, source: Source, weights: Path, signature: "Signature", service: "Signature | None"
) -> Committed:
    with _claimed(registry, model) as claim:
        target = registry.version_url(model, claim.version)
        code, files = _upload_code(source, target)
        file = upload_file(weights, target, path=weights.name)
        return registry.commit(
            claim,
            Manifest(
                model=model,
                version=claim.version,
                created=claim.created,
                lineage=Lineage(origin="import", modelmill=this_release()),
                signature=signature,
                service=service,
                code=code,
                hyperparameters=dict(source.hyperparameters),
                variants=(Variant(name=DENSE, file=file.path, bytes=file.bytes),),
                files=(*files, file),
            ),
        )


def _upload_code(source: Source, target: str) -> tuple[Code, list[File]]:
    if source.program is not None:
        file = upload_file(source.program, target, path=_PROGRAM_PATH)
        return Code(kind=PROGRAM, files=(file.path,)), [file]
    files = upload_code(source.recipe, target) if source.recipe else []
    return Code(kind=RECIPE, entrypoint=source.entrypoint, files=tuple(file.path for file in files)), files
