"""The generated CRDs: no drift, every field documented and bounded. That an API server accepts them is tested elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from modelmill_operator.api.common import Record
from modelmill_operator.api.generate import KINDS, Kind, crd, files
from modelmill_operator.api.schema import schema_of

ROOT = Path(__file__).parents[3]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def _schema(kind: Kind) -> dict[str, Any]:
    schema: dict[str, Any] = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def _nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _nodes(child, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield from _nodes(schema[keyword], f"{path}[]")


@pytest.mark.parametrize(("path", "text"), files(ROOT).items(), ids=lambda value: value.name if isinstance(value, Path) else "")
def test_a_generated_file_has_not_drifted(path: Path, text: str) -> None:
    assert path.read_text() == text, f"{path.relative_to(ROOT)} differs from the typed API: run `make crds` and commit the result"


@every_kind
def test_every_field_says_what_it_is_for(kind: Kind) -> None:
    for path, node in _nodes(_schema(kind)):
        for name, child in node.get("properties", {}).items():
            if path or name != "metadata":
                assert len(child.get("description", "")) > 8, f"{kind.name}{path}.{name} has no description"


@every_kind
def test_every_default_in_the_spec_is_told_by_kubectl_explain(kind: Kind) -> None:
    for path, node in _nodes(_schema(kind)["properties"]["spec"]):
        if "default" in node and node["type"] != "object":
            assert "Default: " in node["description"], f"{kind.name}.spec{path}"


@every_kind
def test_whatever_a_rule_may_look_at_is_bounded(kind: Kind) -> None:
    for path, node in _nodes(_schema(kind)["properties"]["spec"]):
        bounded = {"string": {"maxLength", "enum"}, "array": {"maxItems"}}.get(node.get("type", ""))
        if bounded:
            assert bounded & set(node), (
                f"{kind.name}.spec{path} has no bound: rules that look at it have no estimate of their cost"
            )


@every_kind
def test_no_number_in_a_spec_is_a_float(kind: Kind) -> None:
    assert {node.get("type") for _, node in _nodes(_schema(kind))} <= {"object", "array", "string", "integer", "boolean", None}


@every_kind
def test_the_api_server_fills_nothing_into_a_status(kind: Kind) -> None:
    filled = [path for path, node in _nodes(_schema(kind)["properties"]["status"]) if "default" in node]
    assert filled == [], "a default in the status would make every stored status differ from the written one"


@every_kind
def test_a_rule_has_a_message_of_one_line(kind: Kind) -> None:
    for path, node in _nodes(_schema(kind)):
        for rule in node.get("x-kubernetes-validations", []):
            assert 20 < len(rule["message"]) < 200, f"{kind.name}{path}: {rule}"


def test_a_field_without_a_description_is_refused() -> None:
    class Undocumented(Record, frozen=True, kw_only=True):
        name: Annotated[str, msgspec.Meta(max_length=5)]

    with pytest.raises(TypeError, match=r"Undocumented\.name has no description"):
        schema_of(Undocumented)


def test_a_type_that_has_no_structural_schema_is_refused() -> None:
    class Loose(Record, frozen=True, kw_only=True):
        amount: float
        """A number."""

    with pytest.raises(TypeError, match="no structural schema"):
        schema_of(Loose)
