"""The publish stage: makes a version of what a job trained, compressed and evaluated, and points the channel to it.

It may be killed anywhere and run again, even twice at once: the number is claimed and written down in the job's workspace
before anything else, every file is written whole, the manifest last, and each later step looks whether it is done. One
job publishes one version.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as release_of
from pathlib import Path
from typing import Any

from modelmill import storage, workspace
from modelmill.artifact import code, digests, manifest, retention
from modelmill.artifact.errors import ClaimLost, NotPublishable
from modelmill.artifact.manifest import RECIPE, Code, File, Lineage, Manifest, Variant
from modelmill.artifact.registry import Claim, Committed, Registry
from modelmill.artifact.select import DENSE
from modelmill.contract import codec
from modelmill.contract.jobfile import JobFile
from modelmill.contract.result import Published, StageResult, VariantResult
from modelmill.failures import Fault

EVALUATION = "evaluation.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured, by variant, and on which data."""

    variants: dict[str, VariantResult] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)


def run(job: JobFile) -> StageResult:
    try:
        return _publish(job)
    except Fault as fault:
        return StageResult(stage="publish", ok=False, reason=fault.reason, message=str(fault), fatal=fault.fatal)


def _publish(job: JobFile) -> StageResult:
    registry = Registry(url=job.registry, namespace=job.namespace)
    claim = _claimed(registry, job)
    try:
        committed = _committed(registry, job, claim) or _commit(registry, job, claim)
    except ClaimLost:
        storage.remove(workspace.published_uri(job))
        raise
    promoted = registry.promote_new(job.model, job.publish.channel, committed.pointer)
    removed = retention.prune(registry, job.model, keep=job.publish.keep_versions)
    _clean(job)
    version = committed.manifest.version
    names = tuple(variant.name for variant in committed.manifest.variants)
    return StageResult(
        stage="publish",
        ok=True,
        message=_sentence(job, version, names, promoted=promoted, removed=removed),
        published=Published(
            version=version,
            digest=committed.digest,
            channel=job.publish.channel if promoted else None,
            variants=names,
        ),
    )


def _sentence(job: JobFile, version: int, names: tuple[str, ...], *, promoted: bool, removed: list[int]) -> str:
    told = f"published version {version} of model {job.model!r} with variants {', '.join(names)}"
    channel = job.publish.channel
    told += f"; channel {channel!r} points to it" if promoted else f"; channel {channel!r} was moved by somebody else and stays"
    return told + (f"; removed old versions {', '.join(map(str, removed))}" if removed else "")


def _claimed(registry: Registry, job: JobFile) -> Claim:
    """The job's number: the one written down, else a new one."""
    url = workspace.published_uri(job)
    if storage.exists(url):
        return codec.loads(Claim, storage.read_bytes(url))
    claim = registry.claim(job.model)
    try:
        storage.create_bytes(url, codec.dumps(claim).encode())
    except storage.AlreadyExists:  # the same job publishes elsewhere at this moment: use its number
        registry.release(job.model, claim)
        return codec.loads(Claim, storage.read_bytes(url))
    return claim


def _committed(registry: Registry, job: JobFile, claim: Claim) -> Committed | None:
    """The version, when an earlier run got that far."""
    if not storage.exists(registry.manifest_url(job.model, claim.version)):
        return None
    committed = registry.read_manifest(job.model, claim.version)
    if committed.manifest.lineage.uid != job.uid:
        raise ClaimLost(f"version {claim.version} of model {job.model!r} was published by another job; publish again")
    return committed


def _commit(registry: Registry, job: JobFile, claim: Claim) -> Committed:
    if not job.passed:
        raise NotPublishable("no variant passed its gates: there is nothing to publish")
    target = registry.version_url(job.model, claim.version)
    figures = _figures(job)
    bundle, code_files = _publish_code(job, target)
    variants = [_publish_variant(job, name, target, figures) for name in dict.fromkeys(job.passed)]
    files = [*code_files, *(file for _, file in variants), *_publish_reports(job, target)]
    if storage.exists(workspace.evaluation_uri(job)):
        files.append(copy_file(workspace.evaluation_uri(job), target, path=EVALUATION))
    from modelmill.recipe.load import load_recipe, processes  # here, because it imports torch

    recipe = load_recipe(job.recipe_path, job.entrypoint or "", job.hyperparameters)
    lineage = Lineage(origin="training", job=job.name, uid=job.uid, modelmill=this_release(), seed=job.seed, data=figures.data)
    return registry.commit(
        claim,
        Manifest(
            model=job.model,
            version=claim.version,
            created=claim.created,
            lineage=lineage,
            signature=recipe.signature(),
            service=recipe.service_signature() if processes(recipe) else None,
            code=bundle,
            hyperparameters=job.hyperparameters,
            variants=tuple(variant for variant, _ in variants),
            files=tuple(files),
        ),
    )


def _publish_code(job: JobFile, target: str) -> tuple[Code, list[File]]:
    if not job.entrypoint:
        raise NotPublishable("spec.recipe.entrypoint is not set: a version needs the recipe that rebuilds its module")
    files = upload_code(Path(job.recipe_path), target) if job.recipe_path else []
    return Code(kind=RECIPE, entrypoint=job.entrypoint, files=tuple(file.path for file in files)), files


def _publish_variant(job: JobFile, name: str, target: str, figures: Figures) -> tuple[Variant, File]:
    source = workspace.variant_uri(job, name)
    if name == DENSE and not storage.exists(source):
        # A job without an evaluate stage: the dense weights are where training left them.
        source = workspace.dense_uri(job)
    if not storage.exists(source):
        raise NotPublishable(f"variant {name!r} passed, but its weights {source} are not there; run the compress stage again")
    file = copy_file(source, target, path=f"{name}.safetensors")
    made = next((variant for variant in job.variants if variant.name == name), None)
    measured = figures.variants.get(name)
    variant = Variant(
        name=name,
        file=file.path,
        bytes=file.bytes,
        steps=made.steps if made else (),
        tier=made.tier if made else None,
        metrics={key: value for key, value in measured.metrics.items() if math.isfinite(value)} if measured else {},
        latency_millis=measured.latency_millis if measured else None,
    )
    return variant, file


def _publish_reports(job: JobFile, target: str) -> list[File]:
    """What the compress stage left beside the variants, such as the front of a search."""
    beside = {f"{name}.{end}": workspace.report_uri(job, name, end) for name in job.passed for end in workspace.REPORTS}
    return [copy_file(source, target, path=path) for path, source in beside.items() if storage.exists(source)]


def upload_code(folder: Path, target: str) -> list[File]:
    """Copies a recipe's sources into a version."""
    return [upload_file(path, target, path=f"{code.FOLDER}/{name}") for name, path in code.collect(folder).items()]


def upload_file(source: Path, target: str, *, path: str) -> File:
    if not manifest.safe_path(path):
        raise NotPublishable(f"{source}: a file that is published needs a plain name, without control characters and backslashes")
    with source.open("rb") as stream:
        file = digests.describe(stream, path=path)
    storage.upload(source, storage.join(target, path))
    return file


def copy_file(source: str, target: str, *, path: str) -> File:
    with storage.open_read(source) as stream:
        file = digests.describe(stream, path=path)
    storage.copy(source, storage.join(target, path))
    return file


def this_release() -> str | None:
    try:
        return release_of("modelmill")
    except PackageNotFoundError:  # run from sources
        return None


def _figures(job: JobFile) -> Figures:
    url = workspace.evaluation_uri(job)
    if not storage.exists(url):
        return Figures()
    try:
        raw: Mapping[str, Any] = json.loads(storage.read_bytes(url))
        results = [codec.from_dict(VariantResult, item) for item in raw["variants"]]
        data = {"test": raw["testDigest"]} if raw.get("testDigest") else {}
        return Figures(variants={result.name: result for result in results}, data=data)
    except (ValueError, KeyError, TypeError) as error:
        raise NotPublishable(f"{url}: not the figures of an evaluation: {error!r}; run the evaluate stage again") from error


def _clean(job: JobFile) -> None:
    """What is published need not be kept twice; the figures stay."""
    storage.remove_tree(workspace.checkpoints_uri(job))
    storage.remove_tree(storage.join(workspace.workspace(job), "variants"))
    storage.remove(workspace.dense_uri(job))
