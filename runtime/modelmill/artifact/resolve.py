"""The resolve stage: from what a ModelService asks for to one version, its digest and one variant.

The operator stamps the outcome into the pods that serve: they never resolve anything themselves.
"""

from modelmill.artifact import generative
from modelmill.artifact.errors import RegistryError
from modelmill.artifact.registry import Committed, Registry
from modelmill.artifact.select import choose
from modelmill.contract.jobfile import JobFile, Resolve
from modelmill.contract.result import Resolved, StageResult
from modelmill.failures import Fault


def run(job: JobFile) -> StageResult:
    try:
        resolved = resolve(Registry(url=job.registry, namespace=job.namespace), model=job.model, wish=job.resolve or Resolve())
    except Fault as fault:
        return StageResult(stage="resolve", ok=False, reason=fault.reason, message=str(fault), fatal=fault.fatal)
    told = f"model {job.model!r}: version {resolved.version}, variant {resolved.variant}, {resolved.file_bytes} bytes"
    return StageResult(stage="resolve", ok=True, message=told, resolved=resolved)


def resolve(registry: Registry, *, model: str, wish: Resolve) -> Resolved:
    committed = _version(registry, model=model, wish=wish)
    manifest = committed.manifest
    variant = generative.choose(manifest, wish.selection) if manifest.engine else choose(manifest.variants, wish.selection)
    return Resolved(
        version=manifest.version,
        digest=committed.digest,
        variant=variant.name,
        file_bytes=variant.bytes,
        engine=manifest.engine,
    )


def _version(registry: Registry, *, model: str, wish: Resolve) -> Committed:
    if (wish.channel is None) == (wish.version is None):
        raise RegistryError("spec.model needs exactly one of channel and version")
    if wish.version is not None:
        return registry.read_manifest(model, wish.version)
    channel = registry.require_channel(model, wish.channel or "")
    return registry.read_manifest(model, channel.version, digest=channel.digest)
