"""Dataclasses to and from camelCase JSON, for messages that live longer than one release.

Unknown keys are ignored (a newer writer), missing keys take the field's default (an older writer); a missing key
without default, or a value of the wrong shape, is a `ContractError` that names the field.
"""

import dataclasses
import json
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


class ContractError(ValueError):
    """A message of the contract that cannot be understood; says which field and why."""


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def to_dict(message: Any) -> dict[str, Any]:
    """The message as plain JSON values; fields that are None are left out."""
    pairs = ((field.name, getattr(message, field.name)) for field in dataclasses.fields(message))
    return {_camel(name): _plain(value) for name, value in pairs if value is not None}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def from_dict(kind: type[T], raw: Any, *, where: str = "") -> T:
    """Builds `kind` from plain JSON values."""
    if not isinstance(raw, dict):
        raise ContractError(f"{where or kind.__name__}: expected an object, got {type(raw).__name__}")
    hints = typing.get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # callers pass dataclasses only
        key, path = _camel(field.name), f"{where}.{_camel(field.name)}".lstrip(".")
        if raw.get(key) is not None:
            values[field.name] = _typed(hints[field.name], raw[key], path)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ContractError(f"{path}: missing")
    return kind(**values)


def _typed(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _typed(next(a for a in arguments if a is not type(None)), value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where=path)
    if origin is tuple:
        if not isinstance(value, list):
            raise ContractError(f"{path}: expected a list, got {type(value).__name__}")
        return tuple(_typed(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ContractError(f"{path}: expected an object, got {type(value).__name__}")
        return {key: _typed(arguments[1], item, f"{path}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ContractError(f"{path}: expected {hint.__name__}, got {value!r}")
    return value


def dumps(message: Any) -> str:
    return json.dumps(to_dict(message), separators=(",", ":"), sort_keys=True)


def loads(kind: type[T], text: str | bytes) -> T:
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise ContractError(f"{kind.__name__}: not JSON: {error}") from error
    return from_dict(kind, raw)
