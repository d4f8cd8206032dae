"""The two kinds as typed, immutable structs: the single source of the CRDs' schema, defaults and validation.

`parse_training_job` and `parse_model_service` turn what the API server stores into structs, with every default filled
in; planners read those and nothing else. `generate.py` turns the same structs into `crds/*.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from modelmill_operator.api.common import to_raw
from modelmill_operator.api.model_service import ModelService
from modelmill_operator.api.training_job import TrainingJob

T = TypeVar("T", bound=msgspec.Struct)
API_GROUP = "modelmill.io"
API_VERSION = "v1alpha1"
__all__ = [
    "API_GROUP",
    "API_VERSION",
    "InvalidResourceError",
    "ModelService",
    "TrainingJob",
    "parse_model_service",
    "parse_training_job",
    "to_raw",
]


class InvalidResourceError(ValueError):
    """A stored resource that today's schema does not allow: written under an older CRD, or past the API server."""


def parse_training_job(raw: Mapping[str, Any]) -> TrainingJob:
    return _parse(raw, TrainingJob)


def parse_model_service(raw: Mapping[str, Any]) -> ModelService:
    return _parse(raw, ModelService)


def _parse(raw: Mapping[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise InvalidResourceError(f"{kind.__name__} {raw.get('metadata', {}).get('name')!r} is not valid: {error}") from error
