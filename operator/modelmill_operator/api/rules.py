"""What a field's type cannot say: bounds of lists, rules across fields (CEL), and what may not change.

A rule's message is what a user reads after `kubectl apply`: a sentence that names the field and says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec


class Rule(msgspec.Struct, frozen=True):
    """A CEL expression over a struct (`self`, and `oldSelf` on update), and what to tell the user when it is false."""

    rule: str
    message: str


def limit(*, map_keys: Sequence[str] = (), unique: bool = False, **bounds: int) -> msgspec.Meta:
    """Bounds of a field (msgspec's words: ge, le, min_length, max_length), and how a list merges: by keys, or as a set."""
    listed: dict[str, Any] = {}
    if map_keys:
        listed = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(map_keys)}
    elif unique:
        listed = {"x-kubernetes-list-type": "set"}
    meta: Callable[..., msgspec.Meta] = msgspec.Meta
    return meta(**bounds, extra_json_schema=listed or None)


def immutable(field: str, remedy: str) -> Rule:
    """The field may neither change, appear nor vanish once the resource exists."""
    same = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    return Rule(same, f"spec.{field} cannot change once the resource exists: {remedy}")


def exactly_one(fields: Sequence[str], message: str) -> Rule:
    present = ", ".join(f"has(self.{field})" for field in fields)
    return Rule(f"[{present}].filter(set, set).size() == 1", message)


def short_name(length: int, *, because: str) -> Rule:
    """The resource's own name leaves room for the names of its children."""
    return Rule(
        f"self.metadata.name.size() <= {length} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        f"metadata.name must have at most {length} characters, start with a letter and hold only a-z, 0-9 and hyphens, "
        f"because {because}",
    )
