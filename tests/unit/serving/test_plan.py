"""What a ModelService needs next, played through in memory. Sockets, pods and endpoints are elsewhere."""

from typing import Any

import pytest

from modelmill.contract import codec, names
from modelmill.contract.jobfile import JobFile
from modelmill.contract.result import Resolved, StageResult
from modelmill.contract.servicefile import ServiceFile
from modelmill_operator.actions import Object, ScalingDecision
from modelmill_operator.serving.plan import plan
from tests.unit.world import Crash, World


def service(**spec: Any) -> Object:
    return {
        "apiVersion": "modelmill.io/v1alpha1",
        "kind": "ModelService",
        "metadata": {"name": "digits", "namespace": "default", "uid": "u1", "generation": 1},
        "spec": {"model": {"name": "digits", "channel": "stable"}, "minReplicas": 2, "maxReplicas": 5, **spec},
    }


class Registry:
    """What resolve Jobs find."""

    def __init__(self, version: int = 1) -> None:
        self.version: int | None = version

    def __call__(self, file: JobFile) -> StageResult:
        if self.version is None:
            return StageResult(stage="resolve", ok=False, reason="ChannelEmpty", message="publish one first", fatal=True)
        found = Resolved(version=self.version, digest=f"sha256:{self.version}", variant="int8")
        return StageResult(stage="resolve", ok=True, resolved=found)


def run(world: World, *, ticks: int = 12) -> World:
    for _ in range(ticks):
        world.settle()
        world.tick()
    world.settle()
    return world


def selected(world: World) -> str:
    return str(world.children["Service", "digits"]["spec"]["selector"][names.LABEL_VERSION])


def service_file(world: World) -> ServiceFile:
    container = world.children["Deployment", "digits-v1"]["spec"]["template"]["spec"]["containers"][0]
    return codec.loads(ServiceFile, next(item["value"] for item in container["env"] if item["name"] == names.ENV_SERVICE))


def replicas(world: World) -> dict[str, int]:
    return {name: child["spec"]["replicas"] for (kind, name), child in world.children.items() if kind == "Deployment"}


def move(world: World, registry: Registry, version: int) -> None:
    """The channel moves, and the server pods see it."""
    registry.version = version
    world.extra["channel_version"] = version
    while world.resource["status"]["resolved"]["version"] != version:
        world.settle()
        world.tick()
    world.extra.pop("channel_version")


def test_a_service_resolves_deploys_and_leads_traffic_to_ready_pods() -> None:
    world = run(World(service(), plan, results=Registry()))
    assert world.condition("Ready")["status"] == "True"
    assert world.resource["status"]["version"] == 1
    assert replicas(world) == {"digits-v1": 2}
    assert selected(world) == "1"
    assert {kind for kind, _ in world.children} == {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "Pod"}


def test_pods_carry_the_digest_that_was_resolved() -> None:
    world = run(World(service(), plan, results=Registry()))
    assert service_file(world).digest == "sha256:1"


def test_pods_of_a_generative_model_are_told_what_serves_it() -> None:
    def found(file: JobFile) -> StageResult:
        resolved = Resolved(version=1, digest="sha256:1", variant="original", engine="vllm")
        return StageResult(stage="resolve", ok=True, resolved=resolved)

    world = run(World(service(), plan, results=found))
    assert (service_file(world).engine, service_file(world).variant) == ("vllm", "original")
    assert world.resource["status"]["resolved"]["engine"] == "vllm"
    assert "served by vllm" in world.condition("Resolved")["message"]
    assert world.condition("Ready")["status"] == "True"


@pytest.mark.parametrize(("timeout", "hangs_after"), [("1s", 10), ("90s", 90)])
def test_pods_count_as_hung_when_the_model_computes_longer_than_anybody_waits(timeout: str, hangs_after: float) -> None:
    world = run(World(service(timeout=timeout), plan, results=Registry()))
    assert service_file(world).hang_seconds == hangs_after


def test_a_pod_may_take_the_progress_deadline_to_load_before_it_is_asked_whether_it_lives() -> None:
    world = run(World(service(rollout={"progressDeadline": "3m"}), plan, results=Registry()))
    deployment = world.children["Deployment", "digits-v1"]["spec"]
    startup = deployment["template"]["spec"]["containers"][0]["startupProbe"]
    assert startup["httpGet"]["path"] == "/readyz"
    assert startup["periodSeconds"] * startup["failureThreshold"] == deployment["progressDeadlineSeconds"] == 180


def test_nothing_is_written_while_nothing_happens() -> None:
    world = run(World(service(), plan, results=Registry()))
    before = world.writes
    run(world)
    assert world.writes == before


def test_a_new_version_comes_beside_the_old_one_and_takes_over_when_all_its_pods_are_ready() -> None:
    registry = Registry()
    world = run(World(service(), plan, results=registry))
    move(world, registry, 2)
    assert selected(world) == "1"
    world.settle()
    world.tick()
    world.settle()
    assert selected(world) == "2"
    assert world.resource["status"]["version"] == 2
    assert replicas(world)["digits-v1"] == 2, "old pods stay until every node knows"
    world.tick(11)
    run(world)
    assert replicas(world) == {"digits-v1": 0, "digits-v2": 2}


def test_a_version_that_does_not_load_never_takes_traffic_and_its_reason_is_shown() -> None:
    registry = Registry()
    world = run(World(service(), plan, results=registry))
    world.broken = {"2"}
    move(world, registry, 2)
    run(world)
    assert selected(world) == "1"
    assert replicas(world) == {"digits-v1": 2, "digits-v2": 0}
    assert world.condition("Ready")["status"] == "True"
    failure = world.resource["status"]["lastFailure"]
    assert (failure["version"], failure["reason"], failure["message"]) == (2, "LoadFailed", "digest differs")
    assert world.resource["status"]["rollout"]["state"] == "Failed"


def test_going_back_uses_the_deployment_that_was_kept() -> None:
    registry = Registry()
    world = run(World(service(), plan, results=registry))
    move(world, registry, 2)
    world.tick(11)
    run(world)
    added = world.added["Deployment"]
    move(world, registry, 1)
    world.tick(11)
    run(world)
    assert selected(world) == "1"
    assert world.added["Deployment"] == added
    assert replicas(world) == {"digits-v1": 2, "digits-v2": 0}


def test_deployments_beyond_the_history_are_deleted() -> None:
    registry = Registry()
    world = run(World(service(), plan, results=registry))
    for version in (2, 3):
        move(world, registry, version)
        world.tick(11)
        run(world)
    assert replicas(world) == {"digits-v2": 0, "digits-v3": 2}


def test_an_empty_channel_is_asked_again_later_and_told_meanwhile() -> None:
    registry = Registry()
    registry.version = None
    world = run(World(service(), plan, results=registry), ticks=6)
    assert world.condition("Resolved")["reason"] == "ChannelEmpty"
    assert world.condition("Ready")["message"] == "publish one first"
    before = world.added["Job"]
    run(world, ticks=3)
    assert world.added["Job"] == before
    registry.version = 1
    world.tick(30)
    run(world)
    assert world.condition("Ready")["status"] == "True"


def test_a_question_that_waits_for_an_image_is_asked_with_the_new_one_when_the_image_changes() -> None:
    world = World(service(image="nowhere:1"), plan, results=Registry())
    world.settle()
    world.resource["spec"]["image"] = "somewhere:1"
    world.settle()
    (job,) = (child for (kind, _), child in world.children.items() if kind == "Job")
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "somewhere:1"


def test_a_publication_in_the_cluster_is_asked_for_at_once_and_once() -> None:
    registry = Registry()
    registry.version = None
    world = run(World(service(), plan, results=registry), ticks=6)
    registry.version = 1
    world.extra["published_at"] = world.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    asked = world.added["Job"]
    run(world, ticks=6)
    assert world.condition("Ready")["status"] == "True"
    assert world.added["Job"] == asked + 1


def test_the_decision_of_the_autoscaler_is_written_down_and_obeyed() -> None:
    world = run(World(service(), plan, results=Registry()))
    world.extra["scaling"] = ScalingDecision(
        replicas=9, stable_concurrency=300.0, panic_concurrency=400.0, panicking=True, reason="Burst"
    )
    run(world, ticks=3)
    assert replicas(world) == {"digits-v1": 5}
    assert world.resource["status"]["autoscaling"]["desiredReplicas"] == 5
    before = world.writes
    world.extra["scaling"] = ScalingDecision(
        replicas=5, stable_concurrency=301.0, panic_concurrency=399.0, panicking=True, reason="Burst"
    )
    run(world, ticks=3)
    assert world.writes == before, "the numbers alone are no reason to write"
    world.extra.clear()
    run(world, ticks=3)
    assert replicas(world) == {"digits-v1": 5}, "a restarted operator knows the decision"


def test_when_scaling_is_external_the_replicas_of_the_spec_are_obeyed() -> None:
    world = run(World(service(autoscaling="External", replicas=4), plan, results=Registry()))
    assert replicas(world) == {"digits-v1": 4}
    world.resource["spec"]["replicas"] = 1
    run(world, ticks=3)
    assert replicas(world) == {"digits-v1": 1}


def test_a_deployment_that_somebody_scaled_by_hand_is_scaled_back() -> None:
    world = run(World(service(), plan, results=Registry()))
    world.children["Deployment", "digits-v1"]["spec"]["replicas"] = 7
    run(world, ticks=3)
    assert replicas(world) == {"digits-v1": 2}


def test_without_any_registry_the_condition_names_the_field() -> None:
    world = World(service(registry={"uri": "s3://models"}), plan, results=Registry())
    world.settle()
    assert world.condition("Resolved")["reason"] == "Resolving"


def test_the_end_is_the_same_wherever_the_operator_crashes() -> None:
    def play(crash_after: int) -> World:
        registry = Registry()
        world = World(service(), plan, results=registry)
        world.crash_after = crash_after
        for tick in range(36):
            if tick == 10:
                registry.version = 2
                world.extra["channel_version"] = 2
            if world.resource.get("status", {}).get("resolved", {}).get("version") == 2:
                world.extra.clear()
            try:
                world.settle()
            except Crash:
                world.settle()
            world.tick()
        return world

    calm = play(0)
    assert calm.resource["status"]["version"] == 2
    for crash_after in range(1, calm.writes + 1):
        world = play(crash_after)
        assert (world.added, world.deleted) == (calm.added, calm.deleted), f"crash after write {crash_after}"
        assert replicas(world) == replicas(calm)
        assert selected(world) == selected(calm)
