"""Generative models in the registry: published from a Hugging Face folder, and laid out as one for the server that runs them."""

from pathlib import Path

from modelmill import storage
from modelmill.artifact import huggingface
from modelmill.artifact.errors import RegistryError, VariantNotFound
from modelmill.artifact.huggingface import FOLDER, ORIGINAL
from modelmill.artifact.manifest import HUGGINGFACE, Code, File, Lineage, Manifest, Variant
from modelmill.artifact.open import copy_checked, in_place_or_copied
from modelmill.artifact.publish import this_release, upload_file
from modelmill.artifact.registry import Claim, Registry
from modelmill.artifact.select import DENSE
from modelmill.contract.jobfile import Selection
from modelmill.signature import Signature


class NotGenerative(RegistryError):
    """A version that vLLM cannot serve."""

    reason = "NotGenerative"


def upload(registry: Registry, claim: Claim, model: str, folder: huggingface.GenerativeFolder) -> Manifest:
    """Stores the folder's files under the claimed number; the manifest that makes them a version."""
    target = registry.version_url(model, claim.version)
    texts, weights = (
        [upload_file(path, target, path=f"{FOLDER}/{path.name}") for path in paths] for paths in (folder.texts, folder.weights)
    )
    return Manifest(
        model=model,
        version=claim.version,
        created=claim.created,
        lineage=Lineage(origin="import", modelmill=this_release()),
        signature=Signature(inputs=(), outputs=()),
        code=Code(kind=HUGGINGFACE, files=tuple(file.path for file in texts)),
        variants=(_original(weights),),
        files=(*texts, *weights),
    )


def _original(weights: list[File]) -> Variant:
    first, *rest = (file.path for file in weights)
    return Variant(name=ORIGINAL, file=first, more_files=tuple(rest), bytes=sum(file.bytes for file in weights))


def choose(manifest: Manifest, wish: Selection) -> Variant:
    """The weights as they were imported: what an unset spec.variant, dense, means too."""
    if wish.name not in (DENSE, ORIGINAL):
        raise VariantNotFound(
            f"version {manifest.version} of model {manifest.model!r} is generative: it is served as it was imported and has no "
            f"variants to choose from; remove spec.variant"
        )
    return manifest.variants[0]


def open_folder(registry: Registry, *, model: str, version: int, digest: str, into: Path) -> Path:
    """Lays a generative version out in the folder `into`, every byte of it checked; returns the model's own folder.

    Weights on a volume are linked to, not copied. `digest` is that of the manifest, from somebody the caller trusts."""
    manifest = registry.read_manifest(model, version, digest=digest).manifest
    if manifest.engine is None:
        raise NotGenerative(f"version {version} of model {model!r} is not generative: vLLM cannot serve it; resolve it again")
    url = registry.version_url(model, version)
    for path in manifest.code.files:
        copy_checked(storage.join(url, path), manifest.file(path), target=into / path)
    for variant in manifest.variants:
        for path in (variant.file, *variant.more_files):
            place = in_place_or_copied(storage.join(url, path), manifest.file(path), target=into / path)
            if place != into / path:
                (into / path).parent.mkdir(parents=True, exist_ok=True)
                (into / path).symlink_to(place)
    return into / FOLDER
