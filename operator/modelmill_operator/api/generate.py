"""Writes crds/*.yaml, and the chart's copies, from the typed resources: `make crds`.

The typed resources are the single source of schema, defaults and validation; a test fails when a file has drifted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from modelmill_operator.api import API_GROUP, API_VERSION
from modelmill_operator.api.common import Record
from modelmill_operator.api.model_service import ModelService, ModelServiceSpec
from modelmill_operator.api.model_service_status import ModelServiceStatus
from modelmill_operator.api.schema import schema_of
from modelmill_operator.api.training_job import TrainingJob, TrainingJobSpec
from modelmill_operator.api.training_status import TrainingJobStatus

HEADER = "# Generated from operator/modelmill_operator/api by `make crds`: edit the Python, not this file.\n"
CHART_START = """\
{{- if .Values.crds.install }}
"""
KEEP = "    {{- if .Values.crds.keep }}\n    helm.sh/resource-policy: keep\n    {{- end }}\n"


class Column(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str
    type: str
    json_path: str
    description: str
    priority: int = 0


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    resource: type[Record]
    spec: type[Record]
    status: type[Record]
    description: str
    plural: str
    short: str
    columns: tuple[Column, ...]
    scale: dict[str, str] | None = None

    @property
    def name(self) -> str:
        return self.resource.__name__


def _column(name: str, path: str, description: str, *, kind: str = "string", priority: int = 0) -> Column:
    return Column(name=name, type=kind, json_path=path, description=description, priority=priority)


AGE = _column("Age", ".metadata.creationTimestamp", "Time since it was created.", kind="date")
KINDS = (
    Kind(
        resource=TrainingJob,
        spec=TrainingJobSpec,
        status=TrainingJobStatus,
        description="A TrainingJob trains a model on one or many pods, compresses it, evaluates it on data that training "
        "never saw, and publishes a new version when it passes.",
        plural="trainingjobs",
        short="tj",
        columns=(
            _column("Stage", ".status.stage", "Where the job is."),
            _column("Step", ".status.progress.step", "Optimizer steps done.", kind="integer"),
            _column("Of", ".status.progress.totalSteps", "Optimizer steps in all.", kind="integer"),
            _column("Loss", ".status.progress.loss", "Loss of the newest step."),
            _column("Restarts", ".status.restarts", "Starts of the gang after failures.", kind="integer"),
            _column("Version", ".status.published.version", "Version that was published.", kind="integer"),
            _column("Model", ".spec.model.name", "Name of the model.", priority=1),
            _column("Samples/s", ".status.progress.samplesPerSecond", "Speed of training.", priority=1),
            _column("Reason", ".status.conditions[?(@.type=='Succeeded')].reason", "Why it ended.", priority=1),
            AGE,
        ),
    ),
    Kind(
        resource=ModelService,
        spec=ModelServiceSpec,
        status=ModelServiceStatus,
        description="A ModelService serves a model from the registry: it follows a channel, rolls new versions out without "
        "failing a request, and scales with traffic.",
        plural="modelservices",
        short="msvc",
        columns=(
            _column("Ready", ".status.conditions[?(@.type=='Ready')].status", "Whether it takes requests."),
            _column("Model", ".spec.model.name", "Name of the model."),
            _column("Version", ".status.version", "Version that serves.", kind="integer"),
            _column("Variant", ".status.variant", "Variant that serves."),
            _column("Pods", ".status.readyReplicas", "Pods that take requests.", kind="integer"),
            _column("Rollout", ".status.rollout.state", "State of the newest rollout."),
            _column("URL", ".status.url", "Where to send requests.", priority=1),
            _column(
                "Wanted", ".status.autoscaling.desiredReplicas", "Pods that the autoscaler wants.", kind="integer", priority=1
            ),
            _column("Reason", ".status.conditions[?(@.type=='Ready')].reason", "Why it is, or is not, ready.", priority=1),
            AGE,
        ),
        scale={
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    ),
)


def crd(kind: Kind) -> dict[str, Any]:
    version = {
        "name": API_VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root_schema(kind)},
        "subresources": {"status": {}, **({"scale": kind.scale} if kind.scale else {})},
        "additionalPrinterColumns": msgspec.to_builtins(kind.columns),
    }
    names = {
        "kind": kind.name,
        "listKind": f"{kind.name}List",
        "plural": kind.plural,
        "singular": kind.name.lower(),
        "shortNames": [kind.short],
        "categories": ["modelmill", "ml"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{API_GROUP}"},
        "spec": {"group": API_GROUP, "names": names, "scope": "Namespaced", "versions": [version]},
    }


def _root_schema(kind: Kind) -> dict[str, Any]:
    rules = getattr(kind.resource, "RULES", ())
    return {
        "type": "object",
        "description": kind.description,
        "properties": {
            "apiVersion": {"type": "string", "description": f"{API_GROUP}/{API_VERSION}"},
            "kind": {"type": "string", "description": kind.name},
            "metadata": {"type": "object"},
            "spec": {"description": "What is wanted.", **schema_of(kind.spec)},
            "status": {"description": "What was observed; written by the operator.", **schema_of(kind.status)},
        },
        "required": ["spec"],
        "x-kubernetes-validations": [msgspec.to_builtins(rule) for rule in rules],
    }


def _yaml(document: dict[str, Any]) -> str:
    return yaml.dump(document, Dumper=_NoAliases, sort_keys=False, width=120, allow_unicode=True)


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True


def chart_template(kind: Kind) -> str:
    """The same document for the chart: installed unless told otherwise, and kept when the chart is removed."""
    document = crd(kind)
    document["metadata"] = {
        "name": document["metadata"]["name"],
        "annotations": {"KEEP": ""},
        "labels": {"app.kubernetes.io/part-of": "modelmill"},
    }
    return HEADER + CHART_START + _yaml(document).replace("    KEEP: ''\n", KEEP) + "{{- end }}\n"


def files(root: Path) -> dict[Path, str]:
    """Every generated file and what should be in it."""
    plain = {root / "crds" / f"{kind.plural}.yaml": HEADER + _yaml(crd(kind)) for kind in KINDS}
    chart = {root / "helm" / "modelmill" / "templates" / "crds" / f"{kind.plural}.yaml": chart_template(kind) for kind in KINDS}
    return plain | chart


def main() -> None:
    for path, text in files(Path.cwd()).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path.relative_to(Path.cwd()))


if __name__ == "__main__":
    main()
