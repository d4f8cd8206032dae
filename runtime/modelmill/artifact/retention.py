"""What a publisher removes after it has published: old versions, abandoned claims, workspaces of long ago.

The newest versions stay, and so does every version that a channel points to, or has just come from. A version loses
its manifest first: a removal that is interrupted leaves what looks like an abandoned claim, and the next one ends it.
"""

from datetime import UTC, datetime, timedelta

from modelmill import storage
from modelmill.artifact.registry import Registry
from modelmill.workspace import JOBS

ABANDONED_AFTER = timedelta(days=1)
WORKSPACE_AFTER = timedelta(days=30)
"""Counted from the last file that was written: a suspended job must not lose its checkpoints over a holiday."""


def prune(registry: Registry, model: str, *, keep: int, now: datetime | None = None) -> list[int]:
    """Removes what is not kept (0 keeps all versions); tells which versions went."""
    now = now or datetime.now(UTC)
    versions = registry.versions(model)
    kept = set(versions[-keep:])  # -0 means from the first: all
    for channel in registry.channels(model).values():
        kept |= channel.kept()
    removed = [version for version in versions if version not in kept]
    for version in removed:
        storage.remove(registry.manifest_url(model, version))
        storage.remove_tree(registry.version_url(model, version))
    _prune_claims(registry, model, now=now)
    _prune_workspaces(registry, model, now=now)
    return removed


def _prune_claims(registry: Registry, model: str, *, now: datetime) -> None:
    numbers, versions = registry.numbers(model), set(registry.versions(model))
    for number in numbers[:-1]:  # the highest stays, so that its number cannot be claimed a second time
        if number in versions:
            continue
        claim = registry.claim_of(model, number)
        if claim is None or datetime.fromisoformat(claim.created) < now - ABANDONED_AFTER:
            storage.remove_tree(registry.version_url(model, number))


def _prune_workspaces(registry: Registry, model: str, *, now: datetime) -> None:
    jobs = storage.join(registry.model_url(model), JOBS)
    oldest = (now - WORKSPACE_AFTER).timestamp()
    for uid in storage.children(jobs):
        workspace = storage.join(jobs, uid)
        if all(file.modified < oldest for file in storage.files(workspace)):
            storage.remove_tree(workspace)
