"""Publishes a version again with machine code for one of its variants.

Everything else is copied as it is, lineage and figures too: it is the same model.
"""

import dataclasses
import itertools
from pathlib import Path

from modelmill import storage
from modelmill.artifact.compiled import Compiled
from modelmill.artifact.errors import DigestMismatch
from modelmill.artifact.manifest import File, Manifest, Variant
from modelmill.artifact.publish import copy_file, upload_file
from modelmill.artifact.registry import Claim, Committed, Registry

FOLDER = "compiled"


def publish_compiled(registry: Registry, base: Manifest, *, variant: str, compiled: Compiled, library: Path) -> Committed:
    """The model's next version: `base` with the library, instead of an earlier one for the same torch and instructions."""
    claim = registry.claim(base.model)
    try:
        return registry.commit(claim, _written(registry, base, claim, variant=variant, compiled=compiled, library=library))
    except BaseException:
        if not storage.exists(registry.manifest_url(base.model, claim.version)):
            storage.remove_tree(registry.version_url(base.model, claim.version))
        raise


def _written(registry: Registry, base: Manifest, claim: Claim, *, variant: str, compiled: Compiled, library: Path) -> Manifest:
    target = registry.version_url(base.model, claim.version)
    kept = {one.name: one if one.name != variant else _without(one, compiled) for one in base.variants}
    dropped = _files(base.variants) - _files(tuple(kept.values()))
    files = [_copied(registry, base, file, target) for file in base.files if file.path not in dropped]
    taken = {file.path for file in files}
    names = (f"{FOLDER}/{variant}-{number}.so" for number in itertools.count())
    path = next(name for name in names if name not in taken)
    file = upload_file(library, target, path=path)
    added = dataclasses.replace(compiled, file=path)
    kept[variant] = dataclasses.replace(kept[variant], compiled=(*kept[variant].compiled, added))
    return dataclasses.replace(
        base, version=claim.version, created=claim.created, variants=tuple(kept.values()), files=(*files, file)
    )


def _without(variant: Variant, compiled: Compiled) -> Variant:
    same = (compiled.torch, compiled.instructions)
    others = tuple(one for one in variant.compiled if (one.torch, one.instructions) != same)
    return dataclasses.replace(variant, compiled=others)


def _files(variants: tuple[Variant, ...]) -> set[str]:
    return {compiled.file for variant in variants for compiled in variant.compiled}


def _copied(registry: Registry, base: Manifest, file: File, target: str) -> File:
    source = storage.join(registry.version_url(base.model, base.version), file.path)
    copied = copy_file(source, target, path=file.path)
    if copied.digest != file.digest:
        raise DigestMismatch(f"{source}: it is not what was published; restore the file or publish anew")
    return copied
