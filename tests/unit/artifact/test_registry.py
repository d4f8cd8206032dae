"""The registry: numbers are taken once, versions are whole or not there, channels move by one at a time."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modelmill import storage
from modelmill.artifact import retention
from modelmill.artifact.errors import ChannelEmpty, ClaimLost, DigestMismatch, ModelNotFound, RegistryError, VersionNotFound
from modelmill.artifact.registry import Registry
from tests.unit.artifact.helpers import manifest_of, published, registry_at

CLAIM_MANY = """
import sys
from modelmill.artifact.registry import Registry
registry = Registry(url=sys.argv[1], namespace="team")
print(*(registry.claim("digits").version for _ in range(5)))
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return registry_at(f"file://{tmp_path}/registry")


def test_eight_processes_at_once_never_get_the_same_number(registry: Registry) -> None:
    command = [sys.executable, "-c", CLAIM_MANY, registry.url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    claimed = sorted(int(number) for process in running for number in process.communicate()[0].split())
    assert claimed == list(range(1, 41))


def test_versions_published_at_once_all_exist_and_the_channel_ends_at_the_newest(registry: Registry) -> None:
    def publish(number: int) -> None:
        registry.promote_new("digits", "stable", published(registry, weights=str(number).encode()).pointer)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(publish, range(16)))
    assert registry.versions("digits") == list(range(1, 17))
    assert registry.require_channel("digits", "stable").version == 16


def test_a_version_is_seen_only_once_its_manifest_is_there(registry: Registry) -> None:
    claim = registry.claim("digits")
    manifest = manifest_of(claim, registry=registry)
    assert registry.versions("digits") == [] == registry.models()
    with pytest.raises(ModelNotFound, match="has no version yet"):
        registry.read_manifest("digits", 1)
    committed = registry.commit(claim, manifest)
    assert registry.commit(claim, manifest) == committed, "committing the same again changes nothing"
    assert registry.versions("digits") == [1]
    assert registry.models() == ["digits"]
    assert registry.read_manifest("digits", 1, digest=committed.digest) == committed


def test_a_publisher_that_lost_its_number_commits_nothing(registry: Registry) -> None:
    claim = registry.claim("digits")
    registry.release("digits", claim)
    with pytest.raises(ClaimLost, match="no longer claimed"):
        registry.commit(claim, manifest_of(claim))
    other = registry.claim("digits")
    registry.commit(other, manifest_of(other, registry=registry))
    with pytest.raises(ClaimLost, match="another manifest is there"):
        registry.commit(other, manifest_of(other, registry=registry, uid="somebody else"))


def test_what_is_missing_is_told_with_what_is_there(registry: Registry) -> None:
    with pytest.raises(ModelNotFound, match="namespace 'team' has no model yet"):
        registry.read_manifest("digits", 1)
    published(registry)
    published(registry)
    with pytest.raises(ModelNotFound, match="models of namespace 'team': digits"):
        registry.read_manifest("cifar", 1)
    with pytest.raises(VersionNotFound, match=r"has no version 7; it has 1, 2"):
        registry.read_manifest("digits", 7)
    with pytest.raises(ChannelEmpty, match="channel 'stable' of model 'digits' has no version yet: publish one, or"):
        registry.require_channel("digits", "stable")
    with pytest.raises(RegistryError, match=r"model: '\.\./other'"):
        registry.versions("../other")
    with pytest.raises(RegistryError, match="channel: 'a/b'"):
        registry.channel("digits", "a/b")


def test_a_manifest_changed_in_the_store_is_refused(registry: Registry) -> None:
    committed = published(registry)
    url = registry.manifest_url("digits", 1)
    storage.write_bytes(url, storage.read_bytes(url).replace(b'"import"', b'"export"'))
    with pytest.raises(DigestMismatch, match="the store was changed"):
        registry.read_manifest("digits", 1, digest=committed.digest)
    storage.write_bytes(registry.manifest_url("cifar", 4), storage.read_bytes(url))
    with pytest.raises(RegistryError, match="version 1 of model 'digits'"):
        registry.read_manifest("cifar", 4)


def test_a_channel_goes_forward_and_back(registry: Registry) -> None:
    one, two, three = (published(registry).pointer for _ in range(3))
    for pointer in (one, two, three):
        registry.promote("digits", "stable", pointer)
    assert registry.rollback("digits", "stable").pointer == two
    assert registry.rollback("digits", "stable").pointer == one
    with pytest.raises(RegistryError, match="points to version 1, its first"):
        registry.rollback("digits", "stable")
    assert registry.promote("digits", "stable", three).pointer == three
    assert registry.rollback("digits", "stable").pointer == one
    with pytest.raises(ChannelEmpty, match="nothing to roll back"):
        registry.rollback("digits", "canary")


def test_a_rollback_to_a_version_that_is_gone_is_refused(registry: Registry) -> None:
    for _ in range(2):
        registry.promote("digits", "stable", published(registry).pointer)
    storage.remove(registry.manifest_url("digits", 1))
    with pytest.raises(VersionNotFound, match="has no version 1"):
        registry.rollback("digits", "stable")
    assert registry.require_channel("digits", "stable").version == 2


def test_a_publisher_does_not_undo_a_rollback_nor_go_back_to_an_older_version(registry: Registry) -> None:
    one, two, three = (published(registry).pointer for _ in range(3))
    assert registry.promote_new("digits", "stable", one)
    assert registry.promote_new("digits", "stable", three)
    assert not registry.promote_new("digits", "stable", two), "a slower job must not bring its older version back"
    registry.rollback("digits", "stable")
    assert not registry.promote_new("digits", "stable", three), "a re-run must not undo what a person did"
    assert registry.require_channel("digits", "stable").pointer == one


def test_a_channel_that_cannot_be_read_says_what_to_do(registry: Registry) -> None:
    storage.write_bytes(f"{registry.url}/team/digits/channels/stable.json", b"{}")
    with pytest.raises(RegistryError, match=r"stable.json: not a channel: version: missing; remove the file"):
        registry.channel("digits", "stable")


def test_retention_keeps_the_newest_and_what_channels_need(registry: Registry) -> None:
    pointers = [published(registry).pointer for _ in range(9)]
    for number in (1, 2, 3):
        registry.promote("digits", "stable", pointers[number - 1])
    for number in (4, 5):
        registry.promote("digits", "canary", pointers[number - 1])
    registry.rollback("digits", "canary")
    assert retention.prune(registry, "digits", keep=2) == [1, 6, 7]
    assert registry.versions("digits") == [2, 3, 4, 5, 8, 9]
    assert registry.numbers("digits") == [2, 3, 4, 5, 8, 9]
    assert retention.prune(registry, "digits", keep=1) == [8]
    assert retention.prune(registry, "digits", keep=0) == [], "0 keeps all"
    assert registry.claim("digits").version == 10


def test_abandoned_claims_go_after_a_day_but_never_the_highest(registry: Registry) -> None:
    for _ in range(3):
        manifest_of(registry.claim("digits"), registry=registry)
    retention.prune(registry, "digits", keep=5)
    assert registry.numbers("digits") == [1, 2, 3]
    retention.prune(registry, "digits", keep=5, now=datetime.now(UTC) + timedelta(days=1, minutes=1))
    assert registry.numbers("digits") == [3]


def test_a_removal_that_was_interrupted_is_ended_by_the_next(registry: Registry) -> None:
    published(registry)
    published(registry)
    storage.remove(registry.manifest_url("digits", 1))
    storage.remove(f"{registry.version_url('digits', 1)}/claim")
    retention.prune(registry, "digits", keep=5)
    assert registry.numbers("digits") == [2]


def test_workspaces_go_when_nothing_was_written_for_a_month(registry: Registry) -> None:
    jobs = f"{registry.url}/team/digits/.jobs"
    storage.write_bytes(f"{jobs}/uid-1/checkpoints/5/COMPLETE", b"")
    retention.prune(registry, "digits", keep=5, now=datetime.now(UTC) + timedelta(days=29))
    assert storage.children(jobs) == ["uid-1"]
    retention.prune(registry, "digits", keep=5, now=datetime.now(UTC) + timedelta(days=31))
    assert storage.children(jobs) == []
