"""The OpenAPI document: complete, valid, and true of the requests here; tests/surface sends many more."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis

from tests.unit.serve.support import MIXED, Running, mixed, running

ANSWER = {"POST /v1/models/m:predict": "PredictAnswer", "POST /v2/models/m/infer": "InferAnswer"}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as handle:
        yield handle


@pytest.fixture(scope="module")
def two() -> Iterator[Running]:
    with running(mixed, signature=MIXED) as handle:
        yield handle


def document_of(server: Running, **headers: str) -> dict[str, Any]:
    status, content, _ = server.exchange("GET", "/openapi.json", headers=headers)
    assert status == 200
    document: dict[str, Any] = json.loads(content)
    return document


def schema(document: dict[str, Any], name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]})


def test_the_document_is_valid(server: Running, two: Running) -> None:
    for one in (server, two):
        document = document_of(one)
        schemathesis.openapi.from_dict(document).validate()
        for body in document["components"]["schemas"].values():
            jsonschema.Draft202012Validator.check_schema(body)


def test_every_operation_has_its_own_name_and_tells_its_refusals(server: Running) -> None:
    document = document_of(server)
    operations = {(method, path): o for path, item in document["paths"].items() for method, o in item.items()}
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)
    infer = operations["post", "/v2/models/{model}/infer"]
    assert list(infer["responses"]) == ["200", "400", "404", "405", "408", "413", "415", "431", "500", "503", "504"]
    assert "Retry-After" in document["components"]["responses"]["503"]["headers"]
    assert "security" not in infer


def test_the_key_is_in_the_document_where_one_is_needed(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("key")
    with running(api_key_file=str(tmp_path / "keys")) as server:
        assert server.ask("GET", "/openapi.json")[0] == 401
        document = document_of(server, Authorization="Bearer key")
        schemathesis.openapi.from_dict(document).validate()
        assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
        for path, item in document["paths"].items():
            for method, operation in item.items():
                opened = path in ("/", "/v2/health/live", "/v2/health/ready")
                assert ("security" not in operation, "401" not in operation["responses"]) == (opened, opened), path
                status = server.ask(method.upper(), path.replace("{model}", "m").replace("{version}", "3"))[0]
                assert (status == 200, status == 401) == (opened, not opened), path


REQUESTS: list[tuple[str, str, dict[str, Any], bool]] = [
    ("v1/models/m:predict", "PredictRequest", {"instances": [{"a": [1, 2.5], "k": 1}]}, True),
    ("v1/models/m:predict", "PredictRequest", {"inputs": {"a": [[1, 2]], "k": [2]}}, True),
    ("v1/models/m:predict", "PredictRequest", {"instances": [{"a": [1], "k": 1, "z": 1}]}, False),
    ("v1/models/m:predict", "PredictRequest", {"instances": [{"a": [1], "k": 2**63}]}, False),
    ("v1/models/m:predict", "PredictRequest", {"instances": [[1]]}, False),
    ("v1/models/m:predict", "PredictRequest", {"instances": []}, False),
    ("v1/models/m:predict", "PredictRequest", {}, False),
    (
        "v2/models/m/infer",
        "InferRequest",
        {
            "inputs": [
                {"name": "k", "shape": [1], "datatype": "INT64", "data": [2]},
                {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [[1, float(2)]]},
            ]
        },
        True,
    ),
    (
        "v2/models/m/infer",
        "InferRequest",
        {"inputs": [{"name": "k", "shape": [1], "datatype": "INT64", "data": [2]}] * 2},
        False,
    ),
]


@pytest.mark.parametrize(("path", "name", "body", "right"), REQUESTS)
def test_the_schemas_allow_what_the_server_takes(two: Running, path: str, name: str, body: dict[str, Any], right: bool) -> None:
    document = document_of(two)
    assert schema(document, name).is_valid(body) == right
    status, answer = two.ask("POST", f"/{path}", body)
    assert status == (200 if right else 400), answer
    schema(document, "Error" if not right else ANSWER[f"POST /{path}"]).validate(answer)
