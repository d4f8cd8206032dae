"""The registry: versions of models below a URL, without a server.

    <registry>/<namespace>/<model>/<version>/{claim, code/, <variant>.safetensors, evaluation.json, manifest.json}
    <registry>/<namespace>/<model>/channels/<channel>.json

A publisher takes the next number by creating `claim` where nothing is, writes its files, and creates manifest.json
last: only then does the version exist for anybody else. Numbers never come back. What retention removes loses its
manifest first, so that a version is whole or not there at all times.
"""

import itertools
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from modelmill import storage
from modelmill.artifact import channel as channels
from modelmill.artifact import manifest as manifests
from modelmill.artifact.channel import Channel, Pointer
from modelmill.artifact.errors import ChannelEmpty, ClaimLost, ManifestError, ModelNotFound, RegistryError, VersionNotFound
from modelmill.artifact.manifest import Manifest
from modelmill.contract import codec

CHANNELS = "channels"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to publish under a number."""

    version: int
    token: str
    """Tells this claim from every other."""
    created: str
    """RFC 3339, UTC"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A version that exists."""

    manifest: Manifest
    digest: str

    @property
    def pointer(self) -> Pointer:
        return Pointer(version=self.manifest.version, digest=self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    url: str
    namespace: str

    def model_url(self, model: str) -> str:
        return storage.join(self.url, self.namespace, _name("model", model))

    def version_url(self, model: str, version: int) -> str:
        return storage.join(self.model_url(model), str(version))

    def manifest_url(self, model: str, version: int) -> str:
        return storage.join(self.version_url(model, version), manifests.NAME)

    def models(self) -> list[str]:
        """Models that have a version."""
        return [model for model in storage.children(storage.join(self.url, self.namespace)) if self.versions(model)]

    def numbers(self, model: str) -> list[int]:
        """Numbers that are taken, also by versions that are not (or never will be) complete."""
        names = storage.children(self.model_url(model))
        return sorted(int(name) for name in names if name.isascii() and name.isdigit() and not name.startswith("0"))

    def versions(self, model: str) -> list[int]:
        """Versions that exist, oldest first."""
        return [number for number in self.numbers(model) if storage.exists(self.manifest_url(model, number))]

    def read_manifest(self, model: str, version: int, *, digest: str | None = None) -> Committed:
        """The version's manifest; with `digest`, only if it is that one."""
        url = self.manifest_url(model, version)
        try:
            data = storage.read_bytes(url)
        except storage.BucketNotFound:
            raise
        except storage.NotFound as error:
            raise self._no_version(model, version) from error
        manifest = manifests.parse(data, expected_digest=digest, where=url)
        if (manifest.model, manifest.version) != (model, version):
            raise ManifestError(f"{url}: it says that it is version {manifest.version} of model {manifest.model!r}")
        return Committed(manifest=manifest, digest=manifests.digest(data))

    def claim(self, model: str) -> Claim:
        """Takes the next number; of many publishers at once each gets its own."""
        for version in itertools.count(max(self.numbers(model), default=0) + 1):
            claim = Claim(version=version, token=uuid.uuid4().hex, created=now())
            try:
                storage.create_bytes(self._claim_url(model, version), codec.dumps(claim).encode())
            except storage.AlreadyExists:
                continue
            return claim
        raise AssertionError("numbers do not end")

    def release(self, model: str, claim: Claim) -> None:
        """Gives up a claim under which nothing was written."""
        storage.remove(self._claim_url(model, claim.version))

    def commit(self, claim: Claim, manifest: Manifest) -> Committed:
        """Makes the version exist. Committing the same manifest again is fine."""
        url, data = self.manifest_url(manifest.model, claim.version), manifests.encode(manifest)
        if self.claim_of(manifest.model, claim.version) != claim:
            raise ClaimLost(f"{url}: version {claim.version} is no longer claimed by this publisher; publish again")
        try:
            storage.create_bytes(url, data)
        except storage.AlreadyExists:
            if storage.read_bytes(url) != data:
                raise ClaimLost(f"{url}: another manifest is there already; publish again") from None
        return Committed(manifest=manifest, digest=manifests.digest(data))

    def channel(self, model: str, name: str) -> Channel | None:
        data = _read_or_none(self._channel_url(model, name))
        return None if data is None else self._parse_channel(model, name, data)

    def channel_names(self, model: str) -> list[str]:
        names = storage.children(storage.join(self.model_url(model), CHANNELS))
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def channels(self, model: str) -> dict[str, Channel]:
        found = {name: self.channel(model, name) for name in self.channel_names(model)}
        return {name: channel for name, channel in found.items() if channel is not None}

    def require_channel(self, model: str, name: str) -> Channel:
        found = self.channel(model, name)
        if found is None:
            raise ChannelEmpty(f"channel {name!r} of model {model!r} has no version yet: publish one, or name a version")
        return found

    def promote(self, model: str, name: str, to: Pointer) -> Channel:
        """Points the channel to a version, whatever it points to now."""
        return self._swap(model, name, lambda current: channels.promoted(current, to))

    def promote_new(self, model: str, name: str, to: Pointer) -> bool:
        """For publishers: points the channel to a version unless it knows it already or is at a newer one."""

        def decide(current: Channel | None) -> Channel:
            if current is not None and (current.has_known(to.version) or current.version > to.version):
                return current
            return channels.promoted(current, to)

        return self._swap(model, name, decide).version == to.version

    def rollback(self, model: str, name: str) -> Channel:
        """Points the channel to the version before the current one."""

        def decide(current: Channel | None) -> Channel:
            if current is None:
                raise ChannelEmpty(f"channel {name!r} of model {model!r} has no version yet: there is nothing to roll back")
            if not current.previous:
                raise RegistryError(
                    f"channel {name!r} of model {model!r} points to version {current.version}, its first: "
                    f"there is nothing to roll back to; promote a version instead"
                )
            before = current.previous[0]
            self.read_manifest(model, before.version, digest=before.digest)
            return channels.rolled_back(current)

        return self._swap(model, name, decide)

    def claim_of(self, model: str, version: int) -> Claim | None:
        """Who publishes (or published) under the number; None when nobody does."""
        data = _read_or_none(self._claim_url(model, version))
        return None if data is None else codec.loads(Claim, data)

    def _swap(self, model: str, name: str, decide: Callable[[Channel | None], Channel]) -> Channel:
        url = self._channel_url(model, name)
        while True:
            data = _read_or_none(url)
            current = None if data is None else self._parse_channel(model, name, data)
            wanted = decide(current)
            if wanted == current:
                return wanted
            try:
                storage.replace_bytes(url, channels.encode(wanted), expected=data)
            except storage.Conflict:
                continue
            return wanted

    def _parse_channel(self, model: str, name: str, data: bytes) -> Channel:
        try:
            return channels.parse(data)
        except ValueError as error:
            raise RegistryError(
                f"{self._channel_url(model, name)}: not a channel: {error}; remove the file and promote a version"
            ) from error

    def _claim_url(self, model: str, version: int) -> str:
        return storage.join(self.version_url(model, version), manifests.CLAIM)

    def _channel_url(self, model: str, name: str) -> str:
        return storage.join(self.model_url(model), CHANNELS, f"{_name('channel', name)}.json")

    def _no_version(self, model: str, version: int) -> RegistryError:
        there = self.versions(model)
        if there:
            return VersionNotFound(f"model {model!r} in {self.url} has no version {version}; it has {', '.join(map(str, there))}")
        known = self.models()
        told = (
            f"models of namespace {self.namespace!r}: {', '.join(known)}"
            if known
            else f"namespace {self.namespace!r} has no model yet"
        )
        return ModelNotFound(f"model {model!r} in {self.url} has no version yet; {told}")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _name(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise RegistryError(
            f"{what}: {name!r} is not a name of letters, digits, '.', '_' and '-' that begins with a letter or digit"
        )
    return name


def _read_or_none(url: str) -> bytes | None:
    try:
        return storage.read_bytes(url)
    except storage.BucketNotFound:
        raise
    except storage.NotFound:
        return None
