"""From typed structs to the schema that the API server enforces.

The spec and status of both kinds are msgspec Structs: types carry the bounds, the string below a field its description,
`RULES` the rules across fields. `schema_of()` turns one struct into a structural OpenAPI v3 schema: no `$ref`, no
unions but the one that Kubernetes knows, every string and list bounded so that the API server can estimate the cost of
the rules. A field's default is told in its description as well, because `kubectl explain` does not show defaults.
"""

from __future__ import annotations

import ast
import inspect as source
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from modelmill_operator.api.common import Observed


def schema_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return _schema(inspect.type_info(struct))


def _schema(kind: inspect.Type) -> dict[str, Any]:
    match kind:
        case inspect.Metadata(type=inner, extra_json_schema=extra):
            return _schema(inner) | (extra or {})
        case inspect.StructType(cls=struct, fields=fields):
            return _object(struct, fields)
        case inspect.StrType(min_length=low, max_length=high, pattern=pattern):
            return _bounded({"type": "string"}, minLength=low, maxLength=high, pattern=pattern)
        case inspect.IntType(ge=low, le=high):
            return _bounded({"type": "integer"}, minimum=low, maximum=high)
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.LiteralType(values=values):
            return {"type": "string", "enum": list(values)}
        case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
            return _bounded({"type": "array", "items": _schema(item)}, minItems=low, maxItems=high)
        case inspect.DictType(value_type=inspect.AnyType()):
            return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        case inspect.DictType(value_type=value, max_length=high):
            return _bounded({"type": "object", "additionalProperties": _schema(value)}, maxProperties=high)
        case inspect.UnionType(types=types):
            return _union([t for t in types if not isinstance(t, inspect.NoneType)])
        case _:
            raise TypeError(
                f"{kind} has no structural schema: use a struct, str, int, bool, Literal, tuple[T, ...] or dict[str, T]"
            )


def _bounded(schema: dict[str, Any], **bounds: Any) -> dict[str, Any]:
    return schema | {keyword: bound for keyword, bound in bounds.items() if bound is not None}


def _union(types: list[inspect.Type]) -> dict[str, Any]:
    if len(types) == 1:
        return _schema(types[0])
    if {type(t) for t in types} == {inspect.IntType, inspect.StrType}:
        bounds = {k: v for t in types for k, v in _schema(t).items() if k in ("maxLength", "pattern")}
        return {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True, **bounds}
    raise TypeError(f"a structural schema has no union of {types}: use a struct with optional fields and an `exactly_one` rule")


def _object(struct: type[msgspec.Struct], fields: Sequence[inspect.Field]) -> dict[str, Any]:
    texts = _descriptions(struct)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field.encode_name: _property(field, texts, owner=struct) for field in fields},
    }
    if required := [field.encode_name for field in fields if field.required]:
        schema["required"] = required
    if rules := getattr(struct, "RULES", ()):
        schema["x-kubernetes-validations"] = msgspec.to_builtins(rules)
    return schema


def _property(field: inspect.Field, texts: Mapping[str, str], *, owner: type) -> dict[str, Any]:
    if field.name not in texts:
        raise TypeError(f"{owner.__name__}.{field.name} has no description: write a string below the field")
    schema = {"description": texts[field.name], **_schema(field.type)}
    if issubclass(owner, Observed):
        return schema
    match field.default:
        case msgspec.NODEFAULT | None | ():
            # Absent: nothing to store in every resource.
            return schema
        case msgspec.Struct() as default:
            # In full: the API server checks the rules on this very object when the CRD is installed.
            return schema | {"default": _given(default)}
        case default:
            value = msgspec.to_builtins(default)
            shown = value if isinstance(value, str) else json.dumps(value)
            return schema | {"default": value, "description": f"{texts[field.name]} Default: {shown}."}


def _given(default: msgspec.Struct) -> dict[str, Any]:
    values = {info.encode_name: getattr(default, info.name) for info in msgspec.structs.fields(default)}
    given = {name: _given(value) if isinstance(value, msgspec.Struct) else value for name, value in values.items()}
    return {name: msgspec.to_builtins(value) for name, value in given.items() if value not in (None, (), {})}


def _descriptions(struct: type) -> dict[str, str]:
    """The strings below the fields of a class and its bases, from their source: they exist nowhere else."""
    texts: dict[str, str] = {}
    for base in struct.__mro__:
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            body = ast.parse(textwrap.dedent(source.getsource(base))).body[0]
            assert isinstance(body, ast.ClassDef)
            for field, below in zip(body.body, body.body[1:], strict=False):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                        texts.setdefault(name, " ".join(text.split()))
    return texts
