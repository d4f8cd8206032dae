"""Stored resources become structs with every default filled in. What the API server enforces is tested there."""

from __future__ import annotations

from typing import Any

import pytest

from modelmill_operator.api import InvalidResourceError, parse_model_service, parse_training_job, to_raw
from modelmill_operator.api.common import Condition
from modelmill_operator.api.training_job import Gang
from modelmill_operator.api.training_status import Progress, TrainingJobStatus
from tests.unit.api.samples import MODEL_SERVICE, SCRIPT_JOB, TRAINING_JOB, changed


def test_a_minimal_training_job_gets_its_defaults() -> None:
    job = parse_training_job(TRAINING_JOB)
    assert job.spec.gang == Gang(workers=1)
    assert (job.spec.checkpoint.every_steps, job.spec.recovery.max_restarts) == (100, 10)
    assert (job.spec.publish.channel, job.spec.publish.keep_versions, job.spec.suspend) == ("stable", None, False)
    assert job.status == TrainingJobStatus()


@pytest.mark.parametrize(("job", "key"), [(TRAINING_JOB, "dataParallel"), (SCRIPT_JOB, "script")])
def test_the_gang_is_found_whatever_the_strategy(job: dict[str, object], key: str) -> None:
    parsed = parse_training_job(changed(job, {f"spec.strategy.{key}": {"workers": 3, "processesPerWorker": 2}}))
    assert parsed.spec.gang == Gang(workers=3, processes_per_worker=2)


def test_a_minimal_model_service_gets_its_defaults() -> None:
    spec = parse_model_service(MODEL_SERVICE).spec
    assert (spec.autoscaling, spec.min_replicas, spec.max_replicas, spec.scale_target) == ("BuiltIn", 1, 3, 100)
    assert (spec.variant.name, spec.batcher.max_batch_size, spec.security.auth) == ("dense", 32, "None")


def test_metadata_that_decisions_need_is_kept() -> None:
    stored = {"name": "a", "namespace": "n", "uid": "u", "generation": 4, "deletionTimestamp": "2026-01-01T00:00:00Z"}
    meta = parse_training_job({**TRAINING_JOB, "metadata": stored}).metadata
    assert (meta.namespace, meta.uid, meta.generation) == ("n", "u", 4)
    assert meta.deletion_timestamp == "2026-01-01T00:00:00Z"


def test_deep_pod_fields_pass_through_unread() -> None:
    affinity: dict[str, Any] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
    volume = {"name": "scratch", "emptyDir": {"medium": "Memory"}}
    pod = parse_training_job(changed(TRAINING_JOB, {"spec.pod": {"affinity": affinity, "volumes": [volume]}})).spec.pod
    assert (pod.affinity, pod.volumes) == (affinity, (volume,))


def test_fields_of_a_newer_api_are_ignored() -> None:
    assert parse_model_service(changed(MODEL_SERVICE, {"spec.fromTheFuture": 1, "status.fromTheFuture": 1})).spec.replicas == 1


def test_a_resource_that_is_not_valid_is_named_with_the_field() -> None:
    with pytest.raises(InvalidResourceError, match=r"TrainingJob 'digits' is not valid: .*\$\.spec\.checkpoint\.everySteps"):
        parse_training_job(changed(TRAINING_JOB, {"spec.checkpoint.everySteps": 0}))


def test_a_status_is_read_back_as_it_was_written() -> None:
    status = TrainingJobStatus(
        observed_generation=2,
        conditions=(Condition(type="Trained", status="True", reason="Done"),),
        progress=Progress(step=5, loss="0.5"),
    )
    raw = to_raw(status)
    assert raw == {
        "observedGeneration": 2,
        "conditions": [{"type": "Trained", "status": "True", "reason": "Done"}],
        "progress": {"step": 5, "loss": "0.5"},
    }
    assert parse_training_job({**TRAINING_JOB, "status": raw}).status == status
