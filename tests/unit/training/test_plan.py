"""What a TrainingJob needs next, played through in memory. The real API server and real pods are elsewhere."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from modelmill.contract import names, report
from modelmill.contract.jobfile import JobFile
from modelmill.contract.result import StageResult, VariantResult
from modelmill.contract.steps import Search, Step
from modelmill_operator.actions import Object
from modelmill_operator.training.plan import plan
from tests.unit.world import Crash, World, default_results, job_files


def job(**spec: Any) -> Object:
    return {
        "apiVersion": "modelmill.io/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "digits", "namespace": "default", "uid": "u1", "generation": 1},
        "spec": {
            "model": {"name": "digits"},
            "recipe": {"configMap": "code", "entrypoint": "recipe:Digits"},
            "data": {"train": {"uri": "configmap://train/train.npz"}, "test": {"uri": "configmap://held-out/test.npz"}},
            "strategy": {"dataParallel": {"workers": 2}},
            "compression": {"variants": [{"name": "int8", "steps": [{"quantize": {"bits": 8}}]}]},
            "evaluation": {"metrics": ["accuracy"], "gates": [{"metric": "accuracy", "min": "0.5"}]},
            **spec,
        },
    }


def run(world: World, *, ticks: int = 16) -> World:
    for _ in range(ticks):
        world.settle()
        world.tick()
    world.settle()
    return world


def until_training(world: World) -> World:
    world.settle()
    world.tick()
    world.settle()
    assert [pod["status"]["phase"] for pod in world.pods(role="worker")] == ["Running", "Running"]
    return world


def status(world: World) -> Any:
    return world.resource["status"]


def test_a_job_goes_through_all_stages_and_publishes() -> None:
    world = run(World(job(), plan))
    assert world.condition("Succeeded")["status"] == "True"
    assert status(world)["published"]["version"] == 1
    assert [entry["name"] for entry in status(world)["stages"]] == ["train", "compress-int8", "evaluate", "publish"]
    assert {entry["name"]: entry["passed"] for entry in status(world)["variants"]} == {"int8": True, "dense": True}


def test_nothing_is_written_while_nothing_happens() -> None:
    world = until_training(World(job(), plan))
    before = world.writes
    world.now = world.now.replace(minute=30)
    world.settle()
    assert world.writes == before


def test_two_writes_bring_a_new_job_of_one_worker_to_rest() -> None:
    world = World(job(strategy={"dataParallel": {"workers": 1}}), plan)
    world.settle()
    assert world.writes == 2


def test_only_the_evaluator_sees_the_held_out_data() -> None:
    world = run(World(job(), plan))
    files = job_files(world)
    assert {file.stage for file in files if file.data.test} == {"evaluate"}
    holders = [pod for pod in world.pods() if "held-out" in str(pod["spec"]["volumes"])]
    assert [pod["metadata"]["labels"][names.LABEL_ROLE] for pod in holders] == ["evaluate"]


def test_a_gang_with_accelerators_is_preceded_by_a_check_without_them() -> None:
    world = World(job(pod={"resources": {"limits": {"nvidia.com/gpu": 1, "cpu": 1}}}), plan)
    world.settle()
    assert list(world.children) == [("Job", "digits-prepare")]
    limits = world.children["Job", "digits-prepare"]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": 1}


def test_a_script_is_trained_and_nothing_more() -> None:
    resource = job(script=["train.py"], strategy={"script": {"workers": 2}})
    for field in ("recipe", "compression", "evaluation"):
        del resource["spec"][field]
    world = run(World(resource, plan))
    assert world.condition("Succeeded")["status"] == "True"
    assert {kind for kind, _ in world.children} == {"Pod"}


def test_a_script_needs_no_registry() -> None:
    resource = job(script=["train.py"], strategy={"script": {"workers": 2}})
    for field in ("recipe", "compression", "evaluation", "registry"):
        resource["spec"].pop(field, None)
    world = until_training(World(resource, plan))
    spec = world.pods(role="worker")[0]["spec"]
    assert [volume["name"] for volume in spec["volumes"] if "persistentVolumeClaim" in volume] == []


@pytest.mark.parametrize("index", [0, 1])
def test_a_lost_pod_raises_the_attempt_once_and_is_created_again(index: int) -> None:
    world = until_training(World(job(), plan))
    survivor = world.pods(index=str(1 - index))[0]["metadata"]["uid"]
    world.remove("Pod", f"digits-worker-{index}")
    world.settle()
    assert (status(world)["attempt"], status(world)["restarts"], status(world)["createdAttempt"]) == (1, 1, 1)
    assert world.pods(index=str(1 - index))[0]["metadata"]["uid"] == survivor
    assert len(world.pods(role="worker")) == 2
    # The survivor tells that its ranks died, too, but of the attempt that is over.
    world.reports[1 - index] = dead(attempt=0, index=1 - index)
    world.settle()
    assert status(world)["attempt"] == 1
    assert run(world).condition("Succeeded")["status"] == "True"


def dead(*, attempt: int, index: int, fatal: bool = False) -> report.Report:
    failure = report.Failure(reason="ImportError" if fatal else "RankExited", message="no module x", fatal=fatal)
    return report.Report(
        namespace="default", job="digits", uid="u1", index=index, attempt=attempt, state=report.FAILED, failure=failure
    )


def test_a_dead_rank_restarts_the_gang_in_place() -> None:
    world = until_training(World(job(), plan))
    pods = [pod["metadata"]["uid"] for pod in world.pods(role="worker")]
    world.reports = {0: dead(attempt=0, index=0), 1: dead(attempt=0, index=1)}
    world.settle()
    assert status(world)["attempt"] == 1
    assert [pod["metadata"]["uid"] for pod in world.pods(role="worker")] == pods


def test_an_error_that_the_user_must_mend_ends_the_job_at_once_with_its_reason() -> None:
    world = until_training(World(job(), plan))
    world.reports = {1: dead(attempt=0, index=1, fatal=True)}
    world.settle()
    assert world.condition("Failed")["reason"] == "ImportError"
    assert "no module x" in world.condition("Failed")["message"]
    # What `kubectl get tj -o wide` shows as the reason of a job that succeeded or failed.
    succeeded = world.condition("Succeeded")
    assert (succeeded["status"], succeeded["reason"]) == ("False", "ImportError")
    assert world.condition("WorkersReady")["status"] == "False"
    assert world.pods(role="worker") == []


def test_restarts_are_counted_up_to_the_limit() -> None:
    world = until_training(World(job(recovery={"maxRestarts": 2}), plan))
    for attempt in range(3):
        world.reports = {0: dead(attempt=attempt, index=0)}
        world.settle()
    assert world.condition("Failed")["reason"] == "TooManyRestarts"
    assert "RankExited" in world.condition("Failed")["message"]


def test_a_pod_that_was_killed_for_memory_says_so() -> None:
    world = until_training(World(job(recovery={"maxRestarts": 0}), plan))
    pod = world.pods(index="0")[0]
    pod["status"] = {
        "phase": "Failed",
        "containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}],
    }
    world.settle()
    assert "out of memory" in world.condition("Failed")["message"]


def test_suspend_deletes_the_pods_and_resume_starts_a_new_attempt_without_counting_a_restart() -> None:
    world = until_training(World(job(), plan))
    world.resource["spec"]["suspend"] = True
    world.settle()
    assert world.pods() == []
    assert world.condition("Suspended")["status"] == "True"
    world.resource["spec"]["suspend"] = False
    world.settle()
    assert len(world.pods(role="worker")) == 2
    assert (status(world)["attempt"], status(world)["restarts"]) == (1, 0)
    assert run(world).condition("Succeeded")["status"] == "True"


def test_a_job_past_its_deadline_fails_and_stops() -> None:
    world = until_training(World(job(activeDeadlineSeconds=60), plan))
    world.now = world.now.replace(minute=2)
    world.settle()
    assert world.condition("Failed")["reason"] == "DeadlineExceeded"
    assert world.pods() == []


def test_a_finished_job_deletes_itself_after_its_time() -> None:
    world = run(World(job(ttlSecondsAfterFinished=100), plan), ticks=16)
    assert not world.gone
    world.now = world.now.replace(minute=5)
    world.reconcile()
    assert world.gone


def test_a_gang_that_finds_no_room_for_all_gives_back_what_it_holds_and_tries_again() -> None:
    world = World(job(), plan)
    world.settle()
    pending = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient nvidia.com/gpu"}
    pod = world.pods(index="1")[0]
    pod["status"] = {"phase": "Pending", "conditions": [{**pending, "lastTransitionTime": world.now.isoformat()}]}
    world.pods(index="0")[0]["status"] = {"phase": "Running"}
    world.settle()
    assert world.condition("WorkersReady")["reason"] == "Unschedulable"
    assert len(world.pods()) == 2
    world.now = world.now.replace(minute=1)
    world.settle()
    assert world.pods() == []
    assert "Insufficient nvidia.com/gpu" in world.condition("WorkersReady")["message"]
    world.now = world.now.replace(minute=3)
    world.settle()
    assert len(world.pods()) == 2
    assert status(world)["restarts"] == 0


def test_a_missing_image_shows_as_a_condition() -> None:
    world = World(job(), plan)
    world.settle()
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image: nope:1"}}
    world.pods(index="0")[0]["status"] = {"phase": "Pending", "containerStatuses": [{"state": waiting}]}
    world.settle()
    assert world.condition("WorkersReady")["reason"] == "ImagePullBackOff"
    assert "nope:1" in world.condition("WorkersReady")["message"]


def test_when_no_variant_passes_the_job_fails_with_the_numbers_and_publishes_nothing() -> None:
    def refuse(file: JobFile) -> StageResult:
        if file.stage != "evaluate":
            return default_results(file)
        variants = tuple(VariantResult(name=v.name, reason="accuracy 0.41 is below 0.5") for v in file.variants)
        return StageResult(stage="evaluate", ok=True, variants=variants)

    world = run(World(job(), plan, results=refuse))
    assert world.condition("Failed")["reason"] == "GateRefused"
    assert "0.41" in world.condition("Failed")["message"]
    assert ("Job", "digits-publish") not in world.children


def test_a_variant_that_cannot_be_made_is_reported_and_the_others_are_published() -> None:
    def fail_int8(file: JobFile) -> StageResult:
        if file.stage == "compress":
            return StageResult(stage="compress", ok=False, reason="PlanRefused", message="cannot", fatal=True)
        return default_results(file)

    world = run(World(job(), plan, results=fail_int8))
    assert world.condition("Succeeded")["status"] == "True"
    failed = next(entry for entry in status(world)["variants"] if entry["name"] == "int8")
    assert failed["passed"] is False
    assert "PlanRefused" in failed["reason"]
    publish = next(file for file in job_files(world) if file.stage == "publish")
    assert publish.passed == ("dense",)


def test_a_method_that_makes_nothing_faster_on_the_node_is_told_once_as_an_event() -> None:
    told = "prune Unstructured: 0.50 of the weights are zeros; ... take 2.98 times dense's time"

    def warn(file: JobFile) -> StageResult:
        result = default_results(file)
        return replace(result, details={"warnings": [told]}) if file.stage == "compress" else result

    world = run(World(job(), plan, results=warn))
    found = [event for event in world.events if event.reason == "NotFaster"]
    assert [(event.type, event.message) for event in found] == [("Warning", f"variant int8: {told}")]


def test_a_search_reaches_the_compress_stage_with_numbers() -> None:
    variant = {"name": "int8", "steps": [{"search": {"objective": "Size", "maxDrop": "0.01"}}]}
    world = run(World(job(compression={"variants": [variant]}), plan))
    (file,) = (file for file in job_files(world) if file.stage == "compress")
    assert file.variants[0].steps == (Step(search=Search(objective="Size", max_drop=0.01, evaluations=6)),)


def test_a_job_of_another_manager_is_left_alone() -> None:
    world = World(job(managedBy="kueue.x-k8s.io/multikueue"), plan)
    world.settle()
    assert world.writes == 0


def test_the_end_is_the_same_wherever_the_operator_crashes() -> None:
    calm = run(World(job(), plan))
    for crash_after in range(1, calm.writes + 1):
        world = World(job(), plan)
        world.crash_after = crash_after
        for _ in range(18):
            try:
                world.settle()
            except Crash:
                world.settle()
            world.tick()
        world.settle()
        assert (world.added, world.deleted) == (calm.added, calm.deleted), f"crash after write {crash_after}"
        assert world.condition("Succeeded")["status"] == "True"
        assert (status(world)["attempt"], status(world)["restarts"]) == (0, 0)


def test_a_restart_is_counted_once_wherever_the_operator_crashes() -> None:
    for crash_after in range(1, 8):
        world = until_training(World(job(), plan))
        world.writes, world.crash_after = 0, crash_after
        world.remove("Pod", "digits-worker-0")
        for _ in range(3):
            try:
                world.settle()
            except Crash:
                world.settle()
        assert (status(world)["attempt"], status(world)["restarts"]) == (1, 1)
        assert len(world.pods(role="worker")) == 2


def test_the_plan_does_not_change_what_it_is_given() -> None:
    world = until_training(World(job(), plan))
    before = copy.deepcopy(world.resource), copy.deepcopy(world.children)
    world.reconcile()
    assert (world.resource, world.children) == before
