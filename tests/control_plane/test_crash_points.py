"""The operator dies after every single write, and the next one ends in the same state, with as much created and deleted.

The real engine, the real planners, the real API server and controllers; only the kubelet is played. A life ends right after the
API server has done the k-th write and before the operator learns of it: all that it does afterwards is to hang. Then the next
life begins with an empty memory. Each k is a namespace of its own, several at a time.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from modelmill.contract import names
from modelmill_operator.actions import ANNOTATION_APPLIED_HASH
from modelmill_operator.engine.app import Engine
from modelmill_operator.engine.client import Client, load_configuration
from modelmill_operator.engine.kinds import KINDS, MODEL_SERVICE, TRAINING_JOB
from modelmill_operator.serving.plan import plan as plan_service
from modelmill_operator.settings import Settings
from modelmill_operator.training.gang import answer
from modelmill_operator.training.plan import plan as plan_job
from tests.cluster.controlplane import ControlPlane
from tests.control_plane.player import Json, Player

# A kopf that is stopped while it logs in leaves its sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

AT_ONCE = 6
PATIENCE = 120.0
JOB = {
    "apiVersion": "modelmill.io/v1alpha1",
    "kind": TRAINING_JOB,
    "metadata": {"name": "digits"},
    "spec": {
        "model": {"name": "digits"},
        "registry": {"uri": "s3://models"},
        "recipe": {"configMap": "code", "entrypoint": "recipe:Digits"},
        "data": {"train": {"uri": "s3://data/train.npz"}, "test": {"uri": "s3://data/test.npz"}},
        "strategy": {"dataParallel": {"workers": 2}},
        "compression": {"variants": [{"name": "int8", "steps": [{"quantize": {"bits": 8}}]}]},
        "evaluation": {"metrics": ["accuracy"], "gates": [{"metric": "accuracy", "min": "0.5"}]},
        "publish": {"channel": "stable"},
    },
}
SERVICE = {
    "apiVersion": "modelmill.io/v1alpha1",
    "kind": MODEL_SERVICE,
    "metadata": {"name": "digits"},
    "spec": {"model": {"name": "digits", "version": 1}, "registry": {"uri": "s3://models"}},
}


class MortalClient(Client):
    """After its k-th write has been done nothing more is asked, and nothing comes back."""

    def __init__(self, *arguments: Any, dies_after: int | None, timeout: float) -> None:
        super().__init__(*arguments, timeout=timeout)
        self.dies_after, self.writes = dies_after, 0
        self.dead = asyncio.Event()

    async def _request(self, method: str, path: str, **rest: Any) -> Json:
        if self.dead.is_set():
            await asyncio.Event().wait()
        answered = await super()._request(method, path, **rest)
        # Events are told beside the work; losing one changes nothing.
        if method != "GET" and "/events" not in path:
            if self.dies_after == self.writes:
                self.dead.set()
                await asyncio.Event().wait()
            self.writes += 1
        return answered


@dataclass(kw_only=True)
class Ending:
    """What is left, and what came and went on the way."""

    writes: int = 0
    crashes: int = 0
    objects: list[tuple[Any, ...]] = field(default_factory=list)
    status: Any = None
    told: Counter[tuple[str, str]] = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)


Scenario = Callable[[Player, Ending], Awaitable[None]]


async def until(what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await holds():
        assert time.monotonic() < deadline, f"not so after {PATIENCE:.0f} s: {what}"
        await asyncio.sleep(0.4)


async def job_lives(player: Player, ending: Ending) -> None:
    """Created, suspended while it trains, resumed, finished, deleted."""
    path = KINDS[TRAINING_JOB].path(namespace=player.namespace)

    async def workers(*phases: str) -> bool:
        pods = [pod for pod in await player.all("Pod") if pod["metadata"]["labels"].get(names.LABEL_ROLE) == "worker"]
        return sorted(pod["status"]["phase"] for pod in pods) == sorted(phases)

    await player.call("POST", path, JOB)
    await until("both workers run", lambda: workers("Running", "Running"))
    await until("that is told", lambda: condition(player, TRAINING_JOB, "WorkersReady", "True"))
    await player.call("PATCH", f"{path}/digits", {"spec": {"suspend": True}})
    await until("suspended", lambda: condition(player, TRAINING_JOB, "Suspended", "True"))
    await until("the workers are gone", workers)
    await player.call("PATCH", f"{path}/digits", {"spec": {"suspend": False}})
    await until("both workers run again", lambda: workers("Running", "Running"))
    await until("that is told", lambda: condition(player, TRAINING_JOB, "WorkersReady", "True"))
    player.workers_may_end = True
    await until("it succeeded", lambda: condition(player, TRAINING_JOB, "Succeeded", "True"))
    await finish(player, ending, TRAINING_JOB)


async def service_lives(player: Player, ending: Ending) -> None:
    """Created, moved to another version, deleted."""
    path = KINDS[MODEL_SERVICE].path(namespace=player.namespace)

    async def serves(version: int) -> bool:
        service = await player.find(MODEL_SERVICE, "digits")
        return service is not None and service.get("status", {}).get("version") == version

    async def replicas(**wanted: int) -> bool:
        found = {item["metadata"]["name"]: item["spec"]["replicas"] for item in await player.all("Deployment")}
        return found == {f"digits-{name}": number for name, number in wanted.items()}

    await player.call("POST", path, SERVICE)
    await until("version 1 serves", lambda: serves(1))
    await until("it is ready", lambda: condition(player, MODEL_SERVICE, "Ready", "True"))
    player.registry_version = 2
    await player.call("PATCH", f"{path}/digits", {"spec": {"model": {"version": 2}}})
    await until("version 2 serves", lambda: serves(2))
    await until("the old pods are gone", lambda: replicas(v1=0, v2=1))
    await finish(player, ending, MODEL_SERVICE)


async def condition(player: Player, kind: str, name: str, status: str) -> bool:
    resource = await player.find(kind, "digits")
    found = (resource or {}).get("status", {}).get("conditions", ())
    return any((item["type"], item["status"]) == (name, status) for item in found)


async def finish(player: Player, ending: Ending, kind: str) -> None:
    """Notes what is there once nothing changes any more, and what is left after it was deleted."""
    before: Any = None
    while before != (before := await snapshot(player, kind)):  # noqa: ASYNC110  # nothing tells that nothing happens
        await asyncio.sleep(2)
    ending.status, ending.objects = before
    about = [event for event in await player.all("Event") if event["involvedObject"]["kind"] == kind]
    ending.told = Counter((event["reason"], event["message"]) for event in about)
    await player.call("DELETE", KINDS[kind].path(namespace=player.namespace, name="digits"))

    async def nothing() -> bool:
        ending.left = [f"{child['kind']} {child['metadata']['name']}" for child in await player.children()]
        return not ending.left

    await until("everything is gone", nothing)
    ending.counts = player.counts


async def snapshot(player: Player, kind: str) -> tuple[Any, list[tuple[Any, ...]]]:
    """The status and the children, without what differs from run to run: times, uids, generated names."""
    resource = await player.find(kind, "digits")
    assert resource is not None
    objects = []
    for child in await player.children():
        metadata = child["metadata"]
        labels = {
            name: value for name, value in metadata["labels"].items() if name.startswith(names.GROUP) and name != names.LABEL_UID
        }
        stamped = ANNOTATION_APPLIED_HASH in metadata.get("annotations", {})
        phase = child.get("status", {}).get("phase")
        objects.append((child["kind"], tuple(sorted(labels.items())), stamped, phase, child.get("spec", {}).get("replicas")))
    status = json.dumps(timeless(resource["status"]))
    status = status.replace(resource["metadata"]["uid"], "UID").replace(player.namespace, "NAMESPACE")
    return json.loads(status), sorted(objects, key=repr)


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        moments = ("time", "hash")
        return {name: timeless(item) for name, item in value.items() if not name.lower().endswith(moments)}
    # The API server keeps conditions and stages as maps, in no order that means anything.
    return sorted((timeless(item) for item in value), key=json.dumps) if isinstance(value, list) else value


async def run(plane: ControlPlane, scenario: Scenario, *, namespace: str, dies_after: int | None) -> Ending:
    """One scenario with one death, or none."""
    ending = Ending()
    async with Player(plane, namespace=namespace) as player:
        operator = asyncio.create_task(lives(namespace, ending, dies_after=dies_after))
        playing = asyncio.ensure_future(scenario(player, ending))
        try:
            done, _ = await asyncio.wait([operator, playing], return_when=asyncio.FIRST_COMPLETED)
            assert playing in done, f"the operator ended: {operator.exception()!r}"
            playing.result()
        finally:
            for task in (operator, playing):
                task.cancel()
            await asyncio.gather(operator, playing, return_exceptions=True)
    return ending


async def lives(namespace: str, ending: Ending, *, dies_after: int | None) -> None:
    """One life after the other; only the first one ends before its time."""
    settings = Settings(
        namespaces=(namespace,),
        leader_election=False,
        health_listen_port=0,
        report_listen_port=0,
        bind_address="127.0.0.1",
        workers=2,
        retry_max=3,
        autoscale_interval=3600,
    )
    while True:
        client = MortalClient(await load_configuration(), dies_after=dies_after, timeout=30)
        planners = {TRAINING_JOB: plan_job, MODEL_SERVICE: plan_service}
        engine = asyncio.create_task(Engine(settings, client=client, planners=planners, answer=answer).run(asyncio.Event()))
        dying = asyncio.create_task(client.dead.wait())
        try:
            await asyncio.wait([engine, dying], return_when=asyncio.FIRST_COMPLETED)
            if not client.dead.is_set():
                await engine
            ending.crashes += 1
        finally:
            ending.writes += client.writes
            for task in (engine, dying):
                task.cancel()
            await asyncio.gather(engine, dying, return_exceptions=True)
            await client.close()
        dies_after = None


def every_crash_point(plane: ControlPlane, *, name: str, scenario: Scenario) -> None:
    """One life without a death, then one with a death after each of its writes."""

    async def everything() -> tuple[Ending, list[Ending]]:
        calm = await run(plane, scenario, namespace=f"{name}-calm", dies_after=None)
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> Ending:
            async with room:
                return await run(plane, scenario, namespace=f"{name}-{number}", dies_after=number)

        return calm, await asyncio.gather(*(one(number) for number in range(calm.writes)))

    calm, stormy = asyncio.run(everything())
    assert calm.crashes == 0
    assert calm.writes > 5
    # Each thing once, although a life tells again what it finds.
    assert calm.told and set(calm.told.values()) == {1}
    for number, ending in enumerate(stormy):
        assert ending.crashes == 1, f"write {number} never came"
        assert ending.status == calm.status, f"killed after write {number}"
        assert ending.objects == calm.objects, f"killed after write {number}"
        assert ending.counts == calm.counts, f"killed after write {number}"


SCENARIOS: dict[str, Callable[[ControlPlane], None]] = {
    "job-crashes": partial(every_crash_point, name="job", scenario=job_lives),
    "service-crashes": partial(every_crash_point, name="service", scenario=service_lives),
}


@pytest.mark.scenario("job-crashes")
def test_a_job_ends_the_same_whichever_write_was_the_last_of_the_operators_life(outcome: Future[None]) -> None:
    outcome.result()
    gc.collect()


@pytest.mark.scenario("service-crashes")
def test_a_service_ends_the_same_whichever_write_was_the_last_of_the_operators_life(outcome: Future[None]) -> None:
    outcome.result()
    gc.collect()
