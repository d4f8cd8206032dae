"""A real API server refuses what is not valid, with a sentence that says what to do. Excludes what the operator does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.controlplane import ControlPlane, control_plane
from tests.cluster.process import ClusterError, wait_until
from tests.unit.api.samples import ABSENT, MODEL_SERVICE, SCRIPT_JOB, TRAINING_JOB, changed

CRDS = Path(__file__).parents[2] / "crds"
DAY_ONE = {
    "env": [{"name": "A", "value": "b"}, {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    "envFrom": [{"secretRef": {"name": "s"}}],
    "resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"nvidia.com/gpu": 1}},
    "shmSize": "2Gi",
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    "labels": {"team": "a"},
    "annotations": {"note": "b"},
    "serviceAccountName": "trainer",
    "runtimeClassName": "nvidia",
    "priorityClassName": "batch",
    "imagePullSecrets": [{"name": "pull"}],
}
GATES = {"spec.data.test": {"uri": "pvc://held-out/test.npz"}, "spec.evaluation.metrics": ["accuracy"]}
FULL_JOB = changed(
    TRAINING_JOB,
    {
        "metadata.name": "full",
        "spec.registry": {"uri": "s3://models/team", "credentials": {"secretName": "s3"}},
        "spec.data.validation.fraction": "0.1",
        **GATES,
        "spec.evaluation.gates": [
            {"metric": "accuracy", "min": "0.85"},
            {"metric": "accuracy", "variant": "int8", "noWorseThan": "stable", "tolerance": "0.005"},
        ],
        "spec.strategy.dataParallel": {"workers": 2},
        "spec.hyperparameters": {"optimizer": "AdamW", "lr": "0.001", "epochs": 5},
        "spec.compression.variants": [
            {
                "name": "int8",
                "tier": "Light",
                "steps": [
                    {"migrate": {}},
                    {"lowRank": {"maxError": "0.2"}},
                    {"prune": {"method": "Threshold", "threshold": "0.01"}},
                    {"prune": {"method": "AdaGrad", "sparsity": "0.5", "training": {"epochs": "0.5"}}},
                    {"distill": {"method": "Adversarial"}},
                    {"tune": {"lr": "0.1"}},
                    {"quantize": {"bits": 8}},
                    {"share": {"clusters": 16}},
                ],
            },
            {
                "name": "found",
                "steps": [
                    {"prune": {"method": "Channels", "sparsity": "0.5"}},
                    {"search": {"objective": "Size", "maxDrop": "0.01", "evaluations": 8}},
                ],
            },
        ],
        "spec.publish": {"channel": "stable", "keepVersions": 5},
        "spec.scheduling.queue": "team-a",
        "spec.activeDeadlineSeconds": 3600,
        "spec.ttlSecondsAfterFinished": 0,
        "spec.pod": DAY_ONE,
        "spec.stageResources": {"requests": {"cpu": 1}},
    },
)
FULL_SERVICE = changed(
    MODEL_SERVICE,
    {
        "metadata.name": "full",
        "spec.variant": {"maxDrop": "0.01", "prefer": "Size"},
        "spec.autoscaling": "External",
        "spec.stableWindow": "1m30s",
        "spec.security": {"auth": "ApiKey", "apiKeySecret": {"name": "key"}, "tls": {"secretName": "tls"}},
        "spec.expose": {"serviceType": "LoadBalancer", "port": 443, "ingress": {"host": "digits.example.com"}},
        "spec.pod": DAY_ONE,
    },
)
STEP = {"quantize": {"bits": 8}}

INVALID_JOBS: list[tuple[dict[str, Any], str]] = [
    ({"metadata.name": "a" * 39}, "metadata.name must have at most 38 characters"),
    ({"metadata.name": "1st"}, "start with a letter"),
    ({"metadata.name": "a.b"}, "hold only a-z, 0-9 and hyphens"),
    ({"spec.model": ABSENT}, "spec.model: Required value"),
    ({"spec.recipe": ABSENT}, "spec needs exactly one of recipe"),
    ({"spec.script": ["python"]}, "spec needs exactly one of recipe"),
    ({"spec.recipe.entrypoint": "recipe.py"}, "spec.recipe.entrypoint"),
    ({"spec.data": ABSENT}, "spec.data.train is missing: a recipe needs training data"),
    ({"spec.data.train.uri": "/data/train"}, "spec.data.train.uri"),
    ({"spec.data.validation": {}}, "spec.data.validation needs exactly one of uri"),
    ({"spec.data.validation": {"uri": "s3://a/b", "fraction": "0.1"}}, "spec.data.validation needs exactly one of uri"),
    ({"spec.data.validation": {"fraction": "1.5"}}, "spec.data.validation.fraction"),
    ({"spec.strategy": {}}, "spec.strategy needs exactly one key"),
    ({"spec.strategy.script": {"workers": 2}}, "use strategy.dataParallel with spec.recipe"),
    ({"spec.strategy.dataParallel.workers": 0}, "should be greater than or equal to 1"),
    ({"spec.hyperparameters": {"lr": 0.001}}, "spec.hyperparameters.lr"),
    ({"spec.recovery.stallTimeout": "1 hour"}, "spec.recovery.stallTimeout"),
    ({"spec.checkpoint.everySteps": 0}, "should be greater than or equal to 1"),
    ({"spec.compression.variants": [{"name": "dense", "steps": [STEP]}]}, "the name dense is taken"),
    ({"spec.compression.variants": [{"name": "a", "steps": [STEP]}, {"name": "a", "steps": [STEP]}]}, "Duplicate value"),
    ({"spec.compression.variants": [{"name": "a", "steps": []}]}, "should have at least 1 items"),
    ({"spec.compression.variants": [{"name": "a", "steps": [{}]}]}, "a compression step needs exactly one key"),
    *(
        ({"spec.compression.variants": [{"name": "a", "steps": [step]}]}, told)
        for step, told in (
            ({"quantize": {"bits": 9}}, "spec.compression.variants[0].steps[0].quantize.bits"),
            ({"quantize": {"method": "Int4"}}, "spec.compression.variants[0].steps[0].quantize.method"),
            ({"quantize": {"method": "Residue"}}, "modulus belongs to method Residue, which needs it"),
            ({"quantize": {"fractionBits": 3}}, "fractionBits belongs to methods FixedPoint and Residue"),
            ({"prune": {"threshold": "0.1"}}, "needs threshold for method Threshold, and sparsity for every other"),
            ({"prune": {"method": "Threshold", "sparsity": "0.1"}}, "needs threshold for method Threshold"),
            ({"prune": {"sparsity": "1.1"}}, "spec.compression.variants[0].steps[0].prune.sparsity"),
            ({"prune": {"method": "AdaGrad", "sparsity": "0.5"}}, "decides while training: set training"),
            ({"prune": {"method": "Channels", "sparsity": "0.5", "pattern": "16x1"}}, "remove pattern"),
            ({"prune": {"sparsity": "0.6", "pattern": "2:4"}}, "removes half of the weights"),
            ({"search": {"objective": "Size"}}, "spec.compression.variants[0].steps[0].search.maxDrop: Required value"),
            ({"search": {"maxDrop": "0.01", "objective": "Speed"}}, 'supported values: "Latency", "Size"'),
            ({"search": {"maxDrop": "1.5"}}, "spec.compression.variants[0].steps[0].search.maxDrop"),
            ({"search": {"maxDrop": "0.01", "evaluations": 0}}, "should be greater than or equal to 1"),
            ({"search": {"maxDrop": "0.01"}, "quantize": {}}, "a compression step needs exactly one key"),
            ({"tune": {"epochs": "one"}}, "spec.compression.variants[0].steps[0].tune.epochs"),
        )
    ),
    ({"spec.evaluation": {}}, "spec.evaluation needs held-out data: set spec.data.test.uri"),
    ({**GATES, "spec.evaluation.gates": [{"metric": "accuracy"}]}, "an evaluation gate needs a bound"),
    ({**GATES, "spec.evaluation.gates": [{"metric": "f1", "min": "0.5"}]}, "must also be listed in spec.evaluation.metrics"),
    (
        {**GATES, "spec.evaluation.gates": [{"metric": "accuracy", "min": "0.5", "variant": "int8"}]},
        "a variant that does not exist",
    ),
    ({**GATES, "spec.evaluation.gates": [{"metric": "accuracy", "min": "0.5", "tolerance": "0.1"}]}, "only has a meaning with"),
    ({**GATES, "spec.evaluation.gates": [{"metric": "accuracy", "min": "high"}]}, "spec.evaluation.gates[0].min"),
    ({"spec.registry": {"uri": "gs://models"}}, "spec.registry.uri"),
    ({"spec.pod.resources.limits": {"memory": "4 GB"}}, "spec.pod.resources.limits.memory"),
    ({"spec.pod.env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}, "Duplicate value"),
    ({"spec.hyperparametres": {"lr": "1"}}, 'unknown field "spec.hyperparametres"'),
]
INVALID_SCRIPTS: list[tuple[dict[str, Any], str]] = [
    ({"spec.strategy.dataParallel": {"workers": 2}}, "strategy.script with spec.script"),
    ({"spec.compression.variants": [{"name": "a", "steps": [STEP]}]}, "what a script trains cannot be compressed"),
    ({"spec.evaluation": {}, "spec.data.test.uri": "s3://a/b"}, "what a script trains cannot be evaluated"),
    ({"spec.script": []}, "should have at least 1 items"),
]
INVALID_SERVICES: list[tuple[dict[str, Any], str]] = [
    ({"metadata.name": "a" * 41}, "metadata.name must have at most 40 characters"),
    ({"spec.model.channel": ABSENT}, "spec.model needs exactly one of channel (follow it) and version"),
    ({"spec.model.version": 3}, "spec.model needs exactly one of channel (follow it) and version"),
    ({"spec.variant": {}}, "spec.variant needs exactly one of name, tier and maxDrop"),
    ({"spec.variant": {"name": "int8", "prefer": "Size"}}, "only has a meaning with maxDrop"),
    ({"spec.minReplicas": 0}, "should be greater than or equal to 1"),
    ({"spec.minReplicas": 5}, "lower minReplicas or raise maxReplicas"),
    ({"spec.autoscaling": "Off"}, 'supported values: "BuiltIn", "External"'),
    ({"spec.scaleMetric": "RPS"}, 'supported values: "Concurrency"'),
    ({"spec.stableWindow": "5s"}, "spec.stableWindow must be between 6s and 1h"),
    ({"spec.scaleDownDelay": "2h"}, "spec.scaleDownDelay must be at most 1h"),
    ({"spec.containerConcurrency": 8}, "raise containerConcurrency or lower maxBatchSize"),
    ({"spec.batcher.maxLatency": "fast"}, "spec.batcher.maxLatency"),
    ({"spec.security.auth": "ApiKey"}, "set spec.security.apiKeySecret.name"),
    ({"spec.expose.ingress": {}}, "spec.expose.ingress.host: Required value"),
]
IMMUTABLE: list[tuple[dict[str, Any], str]] = [
    ({"spec.model.name": "other"}, "spec.model"),
    ({"spec.recipe.entrypoint": "recipe:Other"}, "spec.recipe"),
    ({"spec.data.train.uri": "s3://other/data"}, "spec.data"),
    ({"spec.strategy.dataParallel.workers": 4}, "spec.strategy"),
    ({"spec.strategy": ABSENT}, "spec.strategy"),
    ({"spec.hyperparameters.lr": "0.1"}, "spec.hyperparameters"),
    ({"spec.hyperparameters.extra": 1}, "spec.hyperparameters"),
    ({"spec.seed": 7}, "spec.seed"),
    ({"spec.compression": ABSENT, "spec.evaluation.gates": ABSENT}, "spec.compression"),
    ({"spec.registry": ABSENT}, "spec.registry"),
    ({"spec.publish.channel": "canary"}, "spec.publish.channel"),
    ({"spec.managedBy": "kueue.x-k8s.io/multikueue"}, "spec.managedBy"),
]
MUTABLE: list[dict[str, Any]] = [
    {"spec.suspend": True},
    {"spec.recovery.maxRestarts": 3},
    {"spec.checkpoint.everySteps": 10},
    {"spec.activeDeadlineSeconds": 7200},
    {"spec.ttlSecondsAfterFinished": ABSENT},
    {"spec.publish.keepVersions": 2},
    {"spec.evaluation.gates": []},
    {"spec.pod.resources.limits": {"memory": "8Gi"}},
]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with control_plane() as running:
        running.kubectl("create", "-f", str(CRDS))
        wait_until(lambda: _served(running), "the API server serves both kinds", seconds=30)
        for resource in (FULL_JOB, FULL_SERVICE):
            running.kubectl("apply", "-f", "-", given=json.dumps(resource))
        yield running


def _served(plane: ControlPlane) -> bool:
    resources = plane.get("/apis/modelmill.io/v1alpha1") or b""
    return all(name in resources for name in (b'"trainingjobs"', b'"modelservices/scale"'))


def _dry_run(plane: ControlPlane, verb: str, resource: dict[str, Any]) -> dict[str, Any]:
    answer = plane.kubectl(verb, "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-", given=json.dumps(resource))
    stored: dict[str, Any] = json.loads(answer)
    return stored


def _refused(plane: ControlPlane, verb: str, resource: dict[str, Any]) -> str:
    with pytest.raises(ClusterError) as refusal:
        _dry_run(plane, verb, resource)
    return str(refusal.value)


@pytest.mark.parametrize("resource", [TRAINING_JOB, SCRIPT_JOB, MODEL_SERVICE], ids=["recipe", "script", "service"])
def test_the_smallest_resource_is_accepted_and_its_defaults_are_stored(plane: ControlPlane, resource: dict[str, Any]) -> None:
    spec = _dry_run(plane, "create", resource)["spec"]
    if resource["kind"] == "TrainingJob":
        assert (spec["publish"], spec["recovery"]["stallTimeout"]) == ({"channel": "stable"}, "5m")
    else:
        assert spec["variant"] == {"name": "dense"}
        assert spec["batcher"] == {"maxBatchSize": 32, "maxLatency": "5ms", "instances": 0}


@pytest.mark.parametrize(("kind", "resource"), [("tj", FULL_JOB), ("msvc", FULL_SERVICE)])
def test_what_users_override_from_day_one_is_stored_as_it_was_written(
    plane: ControlPlane, kind: str, resource: dict[str, Any]
) -> None:
    assert json.loads(plane.kubectl("get", kind, "full", "-o", "json"))["spec"]["pod"] == resource["spec"]["pod"]


@pytest.mark.parametrize(("changes", "sentence"), INVALID_JOBS)
def test_an_invalid_training_job_is_refused_with_a_sentence(plane: ControlPlane, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in _refused(plane, "create", changed(TRAINING_JOB, changes))


@pytest.mark.parametrize(("changes", "sentence"), INVALID_SCRIPTS)
def test_an_invalid_script_job_is_refused_with_a_sentence(plane: ControlPlane, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in _refused(plane, "create", changed(SCRIPT_JOB, changes))


@pytest.mark.parametrize(("changes", "sentence"), INVALID_SERVICES)
def test_an_invalid_model_service_is_refused_with_a_sentence(plane: ControlPlane, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in _refused(plane, "create", changed(MODEL_SERVICE, changes))


@pytest.mark.parametrize(("changes", "field"), IMMUTABLE)
def test_what_a_job_was_built_from_cannot_change(plane: ControlPlane, changes: dict[str, Any], field: str) -> None:
    refusal = _refused(plane, "apply", changed(FULL_JOB, changes))
    assert f"{field} cannot change once the resource exists: create a new TrainingJob" in refusal


@pytest.mark.parametrize("changes", MUTABLE)
def test_how_a_job_is_run_can_change(plane: ControlPlane, changes: dict[str, Any]) -> None:
    assert _dry_run(plane, "apply", changed(FULL_JOB, changes))["metadata"]["name"] == "full"


def test_replicas_are_scaled_through_the_scale_subresource(plane: ControlPlane) -> None:
    status = {"status": {"replicas": 2, "selector": "modelmill.io/modelservice=full"}}
    plane.kubectl("patch", "msvc", "full", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    plane.kubectl("scale", "msvc/full", "--replicas=4")
    scale = json.loads(plane.kubectl("get", "--raw", "/apis/modelmill.io/v1alpha1/namespaces/default/modelservices/full/scale"))
    assert scale["spec"]["replicas"] == 4
    assert scale["status"] == {"replicas": 2, "selector": "modelmill.io/modelservice=full"}


def test_a_status_is_stored_as_it_was_written(plane: ControlPlane) -> None:
    status = {
        "conditions": [{"type": "Trained", "status": "True", "reason": "Done"}],
        "progress": {"step": 5},
        "stages": [{"name": "train"}],
        "variants": [{"name": "int8", "metrics": {"accuracy": "0.97"}, "passed": False}],
    }
    patch = json.dumps({"status": status})
    stored = plane.kubectl("patch", "tj", "full", "--subresource=status", "--type=merge", "-p", patch, "-o", "json")
    assert json.loads(stored)["status"] == status


def test_the_list_tells_the_story(plane: ControlPlane) -> None:
    status = {"status": {"stage": "Training", "progress": {"step": 40, "totalSteps": 100, "loss": "0.31"}, "restarts": 1}}
    plane.kubectl("patch", "tj", "full", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    header, row = plane.kubectl("get", "tj").splitlines()
    assert header.split() == ["NAME", "STAGE", "STEP", "OF", "LOSS", "RESTARTS", "VERSION", "AGE"]
    assert row.split()[:6] == ["full", "Training", "40", "100", "0.31", "1"]
    assert "modelservice.modelmill.io/full" in plane.kubectl("get", "modelmill", "-o", "name")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("tj.spec.recovery.stallTimeout", "Raise it when one step, or loading the data"),
        ("tj.status.published.digest", "covers every file of the version"),
        ("msvc.spec.scaleTarget", "aims at 70 % of it"),
        ("msvc.spec.pod.shmSize", "bus error"),
    ],
)
def test_kubectl_explains_a_field(plane: ControlPlane, path: str, text: str) -> None:
    assert text in " ".join(plane.kubectl("explain", path).split())
