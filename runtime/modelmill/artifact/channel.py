"""A channel: a name such as `stable` that points to one version, swapped with a precondition.

    channels/<channel>.json   {"version", "digest", "previous": [...], "withdrawn": [...]}

`previous` is where a rollback goes, newest first. `withdrawn` are versions that were rolled back: whoever publishes
does not promote them a second time.
"""

from dataclasses import dataclass, replace

from modelmill.contract import codec

HISTORY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    version: int
    digest: str
    """sha256:<hex> of the version's manifest.json"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    version: int
    digest: str
    previous: tuple[Pointer, ...] = ()
    withdrawn: tuple[int, ...] = ()

    @property
    def pointer(self) -> Pointer:
        return Pointer(version=self.version, digest=self.digest)

    def has_known(self, version: int) -> bool:
        """Whether the channel points or pointed to the version."""
        return version == self.version or version in self.withdrawn or any(p.version == version for p in self.previous)

    def kept(self) -> set[int]:
        """Versions that must not be removed: the current one and the ones that it may go back to or has just come from."""
        return {self.version, *(p.version for p in self.previous[:1]), *self.withdrawn[:1]}


def promoted(current: Channel | None, to: Pointer) -> Channel:
    if current is None:
        return Channel(version=to.version, digest=to.digest)
    if current.pointer == to:
        return current
    previous = (current.pointer, *(p for p in current.previous if p.version not in (to.version, current.version)))
    withdrawn = tuple(version for version in current.withdrawn if version != to.version)
    return Channel(version=to.version, digest=to.digest, previous=previous[:HISTORY], withdrawn=withdrawn)


def rolled_back(current: Channel) -> Channel:
    """One step back; the caller has checked that there is one."""
    to = current.previous[0]
    withdrawn = (current.version, *(version for version in current.withdrawn if version != current.version))
    return replace(current, version=to.version, digest=to.digest, previous=current.previous[1:], withdrawn=withdrawn[:HISTORY])


def encode(channel: Channel) -> bytes:
    return codec.dumps(channel).encode()


def parse(data: bytes) -> Channel:
    return codec.loads(Channel, data)
