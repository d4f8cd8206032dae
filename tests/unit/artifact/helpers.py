"""Small versions to publish, and a job that publishes them."""

import io
import json
from pathlib import Path

from modelmill import storage, workspace
from modelmill.artifact import digests
from modelmill.artifact.manifest import RECIPE, Code, File, Lineage, Manifest, Variant
from modelmill.artifact.registry import Claim, Committed, Registry
from modelmill.contract import codec
from modelmill.contract.jobfile import JobFile, Publish
from modelmill.contract.jobfile import Variant as Made
from modelmill.contract.result import VariantResult
from modelmill.contract.steps import Quantize, Step
from modelmill.signature import Signature, Tensor

SIGNATURE = Signature(
    inputs=(Tensor(name="image", shape=(-1, 4)),),
    outputs=(Tensor(name="logits", shape=(-1, 2)),),
)
RECIPE_SOURCE = """
from torch import nn

from modelmill import Recipe, Signature, Tensor


class Tiny(Recipe):
    def model(self):
        return nn.Linear(4, 2)

    def signature(self):
        return Signature(inputs=(Tensor(name="image", shape=(-1, 4)),), outputs=(Tensor(name="logits", shape=(-1, 2)),))
"""


def registry_at(url: str) -> Registry:
    return Registry(url=url, namespace="team")


def manifest_of(
    claim: Claim, *, model: str = "digits", registry: Registry | None = None, weights: bytes = b"weights", uid: str = "u"
) -> Manifest:
    """A manifest with one variant; with a registry, its file is stored too."""
    if registry is not None:
        storage.write_bytes(storage.join(registry.version_url(model, claim.version), "dense.safetensors"), weights)
    file = _described(weights, path="dense.safetensors")
    return Manifest(
        model=model,
        version=claim.version,
        created=claim.created,
        lineage=Lineage(origin="import", uid=uid),
        signature=SIGNATURE,
        code=Code(kind=RECIPE, entrypoint="recipe:Tiny", files=()),
        variants=(Variant(name="dense", file=file.path, bytes=file.bytes),),
        files=(file,),
    )


def published(registry: Registry, *, model: str = "digits", weights: bytes = b"weights") -> Committed:
    claim = registry.claim(model)
    return registry.commit(claim, manifest_of(claim, model=model, registry=registry, weights=weights))


def job_in(folder: Path, *, uid: str = "uid-1", url: str | None = None, keep: int = 10) -> JobFile:
    """A publish job whose workspace holds two variants with figures."""
    recipe = folder / "recipe"
    recipe.mkdir(parents=True, exist_ok=True)
    (recipe / "recipe.py").write_text(RECIPE_SOURCE)
    made = (Made(name="dense"), Made(name="int8", tier="Light", steps=(Step(quantize=Quantize()),)))
    job = JobFile(
        stage="publish",
        namespace="team",
        name="train-digits",
        uid=uid,
        model="digits",
        registry=url or f"file://{folder}/registry",
        recipe_path=str(recipe),
        entrypoint="recipe:Tiny",
        hyperparameters={"lr": "0.1"},
        seed=7,
        variants=made,
        passed=("dense", "int8"),
        publish=Publish(channel="stable", keep_versions=keep),
    )
    storage.write_bytes(workspace.variant_uri(job, "dense"), b"d" * 5000)
    storage.write_bytes(workspace.variant_uri(job, "int8"), b"i" * 1300)
    storage.write_bytes(workspace.dense_uri(job), b"d" * 5000)
    storage.write_bytes(storage.join(workspace.checkpoint_uri(job, 50), "COMPLETE"), b"")
    results = [
        VariantResult(name="dense", passed=True, metrics={"accuracy": 0.98}, latency_millis=0.5),
        VariantResult(name="int8", passed=True, metrics={"accuracy": 0.975}, latency_millis=0.2),
    ]
    figures = {"variants": [codec.to_dict(result) for result in results], "testDigest": "sha256:" + "0" * 64}
    storage.write_bytes(workspace.evaluation_uri(job), json.dumps(figures).encode())
    return job


def _described(data: bytes, *, path: str) -> File:
    return digests.describe(io.BytesIO(data), path=path)
