"""Opens a published version for whoever evaluates or serves it: every byte that is used was checked against the manifest.

Code is always copied, so that what was checked is what runs. Weights on a mounted volume are checked and then used
where they are (they are mapped, not copied); from a remote store they are copied first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelmill import storage
from modelmill.artifact import code, digests
from modelmill.artifact.errors import DigestMismatch, GenerativeModel, VariantNotFound
from modelmill.artifact.manifest import File, Manifest, Variant
from modelmill.artifact.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from modelmill.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedVersion:
    manifest: Manifest
    variant: Variant
    folder: Path
    """Holds the code: `code/` of a recipe, or the exported program."""
    weights: Path
    """The variant's safetensors file."""
    url: str
    """Of the version."""

    def build(self) -> "tuple[nn.Module, Recipe | None]":
        """The module without the variant's weights, which `modelmill.compress.apply.load_variant` puts in, and its recipe."""
        parts, values = self.manifest.code, self.manifest.hyperparameters
        return code.build(parts, folder=self.folder, hyperparameters=values, steps=self.variant.steps)

    def fetch(self, path: str) -> Path:
        """A copy, in `folder`, of another of the version's files."""
        target = self.folder / path
        copy_checked(storage.join(self.url, path), self.manifest.file(path), target=target)
        return target


def open_version(
    registry: str, *, namespace: str, model: str, version: int, digest: str, variant: str, into: Path
) -> OpenedVersion:
    """Brings a version into the folder `into`; `digest` is that of the manifest, from somebody the caller trusts."""
    store = Registry(url=registry, namespace=namespace)
    manifest = store.read_manifest(model, version, digest=digest).manifest
    if manifest.engine:
        raise GenerativeModel(
            f"version {version} of model {model!r} is generative: {manifest.engine} serves it, there is no module here to load, "
            f"measure, compile or export"
        )
    chosen = manifest.variant(variant)
    if chosen is None:
        names = ", ".join(v.name for v in manifest.variants)
        raise VariantNotFound(f"version {version} of model {model!r} has no variant {variant!r}; it has {names}")
    url = store.version_url(model, version)
    for path in manifest.code.files:
        copy_checked(storage.join(url, path), manifest.file(path), target=into / path)
    weights = in_place_or_copied(storage.join(url, chosen.file), manifest.file(chosen.file), target=into / chosen.file)
    return OpenedVersion(manifest=manifest, variant=chosen, folder=into, weights=weights, url=url)


def in_place_or_copied(url: str, file: File, *, target: Path) -> Path:
    local = storage.local_path(url)
    if local is None:
        copy_checked(url, file, target=target)
        return target
    with storage.open_read(url) as stream:
        digests.verify_open(stream.fileno(), file, where=url)
    return local


def copy_checked(url: str, file: File, *, target: Path) -> None:
    size = storage.size(url)
    if size != file.bytes:  # before a byte is fetched: a grown file must not fill this machine's disk
        raise DigestMismatch(f"{url}: it has {size} bytes, {file.bytes} were published; restore the file or publish anew")
    target.parent.mkdir(parents=True, exist_ok=True)
    storage.download(url, target)
    with target.open("rb") as stream:
        digests.verify_open(stream.fileno(), file, where=url)
