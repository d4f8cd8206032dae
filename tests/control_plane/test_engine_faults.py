"""What an API server, a network and a killer may do to the operator: it lives on, converges, and never writes beside another.

The scenarios take minutes of waiting and little work, so they run at the same time: each in a namespace of its own, with an
operator of its own behind a proxy of its own. The toy planner makes one ConfigMap a resource; what is tested is the engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.controlplane import ControlPlane, control_plane
from tests.cluster.process import wait_until
from tests.control_plane.operators import Operator, create, operator, training_job, wait_converged
from tests.control_plane.proxy import Proxy, answer_with, is_watch, proxy

CRDS = Path(__file__).parents[2] / "crds"
FAST = ("--sweep-interval", "5", "--retry-max", "5")
# Nothing is found by sweeping: what these scenarios test is that the watches come back by themselves.
UNSWEPT = ("--sweep-interval", "3600", "--retry-max", "5")

_creating = threading.Lock()


@contextmanager
def cut_off(plane: ControlPlane, name: str, *, flags: tuple[str, ...] = UNSWEPT) -> Iterator[tuple[Proxy, Operator]]:
    """A namespace with three jobs and an operator behind a proxy; all is well so far."""
    with _creating:
        plane.kubectl("create", "namespace", name)
    with proxy(plane, user=name) as between, operator(between.kubeconfig, namespace=name, flags=flags) as running:
        create(plane, *(training_job(job, namespace=name) for job in ("kept", "changed", "deleted")))
        wait_converged(plane, namespace=name)
        yield between, running


def meanwhile(plane: ControlPlane, name: str) -> None:
    """What users do while the operator is cut off."""
    plane.kubectl("patch", "trainingjob", "changed", "-n", name, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    plane.kubectl("delete", "trainingjob", "deleted", "-n", name)
    plane.kubectl("delete", "trainingjob", "kept", "-n", name)
    create(plane, training_job("kept", namespace=name), training_job("new", namespace=name))


def is_fine(plane: ControlPlane, name: str, running: Operator, *, seconds: float) -> None:
    """The same process has converged, and serves what comes new."""
    wait_converged(plane, namespace=name, seconds=seconds)
    create(plane, training_job("after", namespace=name))
    wait_converged(plane, namespace=name, seconds=30)
    assert running.alive(), f"the operator ended: {running.process and running.process.poll()}"
    assert running.page("healthz") == 200


def unreachable(plane: ControlPlane) -> None:
    with cut_off(plane, "unreachable") as (between, running):
        between.refuse()
        time.sleep(10)
        meanwhile(plane, "unreachable")
        time.sleep(20)
        assert running.page("healthz") == 200, "an API server that is down is no reason to restart"
        between.refuse(False)
        is_fine(plane, "unreachable", running, seconds=60)


def unavailable(plane: ControlPlane) -> None:
    with cut_off(plane, "unavailable") as (between, running):
        between.fault = answer_with(503)
        between.cut()
        meanwhile(plane, "unavailable")
        time.sleep(90)
        assert running.page("healthz") == 200
        between.fault = lambda request: None
        is_fine(plane, "unavailable", running, seconds=75)


def watch_error(plane: ControlPlane, *, code: int) -> None:
    name = f"watch-error-{code}"
    with cut_off(plane, name) as (between, running):
        # The error comes instead of the news.
        between.fault = answer_with(503, only=is_watch)
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": code,
            "message": "etcdserver: leader changed",
        }
        between.say({"type": "ERROR", "object": status})
        meanwhile(plane, name)
        time.sleep(2)
        between.fault = lambda request: None
        is_fine(plane, name, running, seconds=60)


def half_watched(plane: ControlPlane) -> None:
    # The error reaches kopf while some of its watches are open and others are being tried again: it has hung in its own end then.
    name = "half-watched"
    with _creating:
        plane.kubectl("create", "namespace", name)
    with proxy(plane, user=name) as between, operator(between.kubeconfig, namespace=name, flags=UNSWEPT) as running:
        create(plane, *(training_job(job, namespace=name) for job in ("kept", "changed", "deleted")))
        wait_until(lambda: between.watches() > 0, "a watch is open", seconds=60, pause=0.002)
        between.fault = answer_with(503, only=is_watch)
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500, "message": "etcdserver: leader changed"}
        between.say({"type": "ERROR", "object": status})
        wait_converged(plane, namespace=name)
        meanwhile(plane, name)
        between.fault = lambda request: None
        is_fine(plane, name, running, seconds=60)


def gone(plane: ControlPlane) -> None:
    # 410 with the history lost: kopf lists anew, and never tells what vanished meanwhile.
    with cut_off(plane, "gone", flags=FAST) as (between, running):
        between.fault = answer_with(410, only=is_watch)
        between.cut()
        meanwhile(plane, "gone")
        time.sleep(10)
        between.fault = lambda request: None
        is_fine(plane, "gone", running, seconds=60)
        wait_until(lambda: running.metric("trainingjobs") == 4, "ghosts are gone from the store", seconds=30)


def unauthorized(plane: ControlPlane) -> None:
    with cut_off(plane, "unauthorized") as (between, running):
        between.fault = answer_with(401)
        between.cut()
        meanwhile(plane, "unauthorized")
        time.sleep(20)
        between.fault = lambda request: None
        is_fine(plane, "unauthorized", running, seconds=60)


def failover(plane: ControlPlane) -> None:
    name = "failover"
    with (
        cut_off(plane, name) as (between, leader),
        proxy(plane, user="standby") as other,
        operator(other.kubeconfig, namespace=name, flags=UNSWEPT) as standby,
    ):
        assert (leader.metric("leader"), standby.metric("leader")) == (1, 0)
        assert other.product_writes() == []
        killed = time.monotonic()
        leader.kill9()
        create(plane, training_job("after-kill", namespace=name))
        wait_converged(plane, namespace=name, seconds=30)
        first = other.product_writes()[0].at
        assert first - killed <= 6 * slowness(), f"the standby wrote {first - killed:.1f} s after the leader was killed"
        assert all(write.at < killed + 0.1 for write in between.writes), "the old leader wrote after it was killed"


def partitioned(plane: ControlPlane) -> None:
    # A leader that cannot reach the API server any more, and is not dead: it must not write when it comes back.
    name = "partitioned"
    with (
        cut_off(plane, name) as (between, leader),
        proxy(plane, user="successor") as other,
        operator(other.kubeconfig, namespace=name, flags=UNSWEPT) as standby,
    ):
        between.refuse()
        wait_until(lambda: standby.metric("leader") == 1, "the standby leads", seconds=30)
        assert leader.metric("leader") == 0, "two lead at the same time"
        cut = time.monotonic()
        meanwhile(plane, name)
        between.refuse(False)
        process = leader.process
        assert process is not None and process.wait(timeout=30) == 1, "who lost the Lease must end"
        wait_converged(plane, namespace=name, seconds=30)
        assert [write for write in between.product_writes() if write.at > cut] == []


def handover(plane: ControlPlane) -> None:
    name = "handover"
    with (
        cut_off(plane, name) as (_, leader),
        proxy(plane, user="heir") as other,
        operator(other.kubeconfig, namespace=name, flags=UNSWEPT) as standby,
    ):
        began = time.monotonic()
        assert leader.stop() == 0
        wait_until(lambda: standby.metric("leader") == 1, "the standby leads", seconds=30, pause=0.05)
        assert time.monotonic() - began <= 3 * slowness(), "a Lease that was released is taken at once"


def quiet(plane: ControlPlane) -> None:
    name = "quiet"
    plane.kubectl("create", "namespace", name)
    create(plane, *(training_job(f"job-{number}", namespace=name) for number in range(200)))
    flags = ("--sweep-interval", "5", "--resync-interval", "20")
    with proxy(plane, user=name) as between, operator(between.kubeconfig, namespace=name, flags=flags):
        wait_converged(plane, namespace=name, seconds=120)
        assert len(between.product_writes()) == 400, "one write for the child and one for the status, of each"
        time.sleep(60)
        assert between.product_writes()[400:] == []


def restarted_api_server(_: ControlPlane) -> None:
    with control_plane() as own:
        own.kubectl("apply", "-f", str(CRDS))
        wait_until(lambda: own.kubectl("api-resources").count("modelmill.io/") == 2, "our kinds are served", seconds=30)
        with cut_off(own, "restarted") as (_between, running):
            own.stop_apiserver()
            time.sleep(120)
            assert running.page("healthz") == 200
            own.start_apiserver()
            meanwhile(own, "restarted")
            is_fine(own, "restarted", running, seconds=75)


def slowness() -> float:
    """How much slower than an idle machine this one is now: the scenarios share its cores."""
    began = time.monotonic()
    sum(number * number for number in range(2_000_000))
    return max(1.0, (time.monotonic() - began) / 0.15)


SCENARIOS: dict[str, Callable[[ControlPlane], None]] = {
    "restarted": restarted_api_server,
    "unavailable": unavailable,
    "quiet": quiet,
    "unreachable": unreachable,
    "watch-error-500": partial(watch_error, code=500),
    "watch-error-410": partial(watch_error, code=410),
    "half-watched": half_watched,
    "gone": gone,
    "unauthorized": unauthorized,
    "failover": failover,
    "partitioned": partitioned,
    "handover": handover,
}


@pytest.mark.scenario("failover")
def test_a_leader_killed_with_9_is_replaced_within_seconds_and_writes_no_more(outcome: Future[None]) -> None:
    outcome.result()


@pytest.mark.scenario("partitioned")
def test_a_leader_that_was_cut_off_ends_without_a_write_when_another_leads(outcome: Future[None]) -> None:
    outcome.result()


@pytest.mark.scenario("handover")
def test_a_leader_that_is_asked_to_stop_hands_over_at_once(outcome: Future[None]) -> None:
    outcome.result()


@pytest.mark.scenario("watch-error-500")
def test_an_error_in_a_watch_ends_nothing(outcome: Future[None]) -> None:
    outcome.result()


@pytest.mark.scenario("half-watched")
def test_an_error_in_the_first_of_many_watches_ends_nothing(outcome: Future[None]) -> None:
    outcome.result()


@pytest.mark.scenario("watch-error-410")
def test_a_watch_that_is_told_its_history_is_gone_goes_on(outcome: Future[None]) -> None:
    outcome.result()


@pytest.mark.scenario("gone")
def test_a_history_that_is_gone_leaves_no_ghosts(outcome: Future[None]) -> None:
    outcome.result()


@pytest.mark.scenario("unauthorized")
def test_a_token_that_is_refused_for_a_while_ends_nothing(outcome: Future[None]) -> None:
    outcome.result()


@pytest.mark.scenario("unreachable")
def test_resources_made_anew_under_their_old_names_while_cut_off_get_their_own_children(outcome: Future[None]) -> None:
    outcome.result()


@pytest.mark.scenario("unavailable")
def test_503_for_90_seconds_ends_nothing(outcome: Future[None]) -> None:
    outcome.result()


@pytest.mark.scenario("restarted")
def test_an_api_server_gone_for_120_seconds_ends_nothing(outcome: Future[None]) -> None:
    outcome.result()


@pytest.mark.scenario("quiet")
def test_200_resources_at_rest_cause_no_write_while_sweeps_and_resyncs_go_on(outcome: Future[None]) -> None:
    outcome.result()
