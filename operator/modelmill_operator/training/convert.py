"""Records of the API as the contract's dataclasses of the same fields: numbers with a fraction are strings there, floats here."""

import dataclasses
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def convert(record: Any, kind: type[T]) -> T:
    """Every field of `kind` from the record's field of the same name."""
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # callers pass dataclasses only
    return kind(**{field.name: _value(getattr(record, field.name), hints[field.name]) for field in fields})


def _value(value: Any, hint: Any) -> Any:
    if value is None:
        return None
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return _value(value, next(part for part in typing.get_args(hint) if part is not type(None)))
    if typing.get_origin(hint) is tuple:
        return tuple(_value(item, typing.get_args(hint)[0]) for item in value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return convert(value, hint)
    return float(value) if hint is float else value
