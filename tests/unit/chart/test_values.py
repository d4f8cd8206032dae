"""The chart's values and their schema, without rendering: that is tested with helm and a real API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

CHART = Path(__file__).parents[3] / "helm" / "modelmill"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def test_the_chart_s_own_values_are_valid() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)


def test_every_value_has_a_schema_and_every_schema_a_value() -> None:
    def keys(values: Any, schema: dict[str, Any], path: str) -> None:
        if schema.get("additionalProperties") is False:
            assert set(values) == set(schema["properties"]) - {"global"}, f"{path or 'values.yaml'} and its schema differ"
            for key, value in values.items():
                keys(value, schema["properties"][key], f"{path}.{key}")

    keys(VALUES, SCHEMA, "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"replica": 2},
        {"replicas": 0},
        {"image": {"repository": "a", "digest": "latest"}},
        {"image": {"repository": "a", "pullPolicy": "Sometimes"}},
        {"defaultRegistry": {"uri": "/models"}},
        {"watchNamespaces": ["a", "a"]},
        {"settings": {"leaseDuration": 4}},
        {"monitoring": {"serviceMonitor": {"interval": "often"}}},
    ],
    ids=json.dumps,
)
def test_a_wrong_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)
