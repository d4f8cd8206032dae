"""Only the pod that a report is about may send it, and only the leader answers."""

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from modelmill.contract import codec
from modelmill.contract.report import Failure, Progress, Reply, Report
from modelmill_operator.actions import Object, Plan
from modelmill_operator.engine.client import Unavailable
from modelmill_operator.engine.kinds import Key
from modelmill_operator.engine.reports import BODY_LIMIT, ReportServer
from modelmill_operator.engine.tokens import Tokens
from modelmill_operator.settings import Settings
from tests.unit.engine.fake_api import FakeApi, job, pod
from tests.unit.engine.harness import Harness

KEY = Key("TrainingJob", "default", "a")
EXPIRY = 2_000_000_000


class Reviewer(FakeApi):
    """Reviews tokens as an API server would: `user/pod/audience` in the middle of the token tells who it is."""

    def __init__(self) -> None:
        super().__init__()
        self.reviews = 0

    async def create(self, wanted: Object, *, timeout: float | None = None) -> Object:
        if wanted["kind"] != "TokenReview":
            return await super().create(wanted, timeout=timeout)
        self.reviews += 1
        self.before("create", "TokenReview")
        try:
            claims = json.loads(base64.urlsafe_b64decode(wanted["spec"]["token"].split(".")[1] + "=="))
        except (ValueError, IndexError):
            return {"status": {"authenticated": False}}
        user = {
            "username": f"system:serviceaccount:{claims['namespace']}:trainer",
            "extra": {"authentication.kubernetes.io/pod-name": [claims["pod"]]},
        }
        asked = wanted["spec"]["audiences"]
        return {"status": {"authenticated": claims["audience"] in asked, "user": user, "audiences": asked}}


def token(pod: str = "a-worker-0", *, namespace: str = "default", audience: str = "modelmill", expiry: int = EXPIRY) -> str:
    claims = json.dumps({"pod": pod, "namespace": namespace, "audience": audience, "exp": expiry})
    return f"head.{base64.urlsafe_b64encode(claims.encode()).decode().rstrip('=')}.signature"


def answer(resource: Object | None, reports: Mapping[int, Report], *, to: Report) -> Reply:
    return Reply(attempt=len(reports), stop=resource is None)


class Desk:
    """A report server with one job of two workers."""

    def __init__(self) -> None:
        self.api = Reviewer()
        self.engine = Harness(self.api, lambda resource, children: Plan())
        self.job = self.api.put(job())
        for item in (self.job, *(self.api.put(pod(f"a-worker-{i}", owner=self.job, **_worker(i))) for i in range(2))):
            self.engine.store.upsert(item)
        self.server = ReportServer(
            Settings(progress_interval=10),
            client=self.api,
            answer=answer,
            tokens=Tokens(self.api, audience="modelmill", clock=self.engine.clock),
            store=self.engine.store,
            queue=self.engine.queue,
            signals=self.engine.signals,
            fence=self.engine.gate,
            metrics=self.engine.metrics,
        )

    def report(self, **fields: Any) -> Report:
        uid = self.job["metadata"]["uid"]
        return Report(**({"namespace": "default", "job": "a", "uid": uid, "index": 0, "attempt": 0, "state": "waiting"} | fields))

    def post(self, *bodies: Report | str, bearer: str | None = None) -> list[tuple[int, Any]]:
        async def run() -> list[tuple[int, Any]]:
            answers = []
            async with TestClient(TestServer(self.server.application())) as client:
                for body in bodies:
                    data = body if isinstance(body, str) else codec.dumps(body)
                    headers = {"Authorization": f"Bearer {token() if bearer is None else bearer}"}
                    response = await client.post("/v1/report", data=data, headers=headers)
                    answers.append((response.status, await response.json()))
            return answers

        return asyncio.run(run())


def _worker(index: int) -> dict[str, str]:
    return {"modelmill.io/role": "worker", "modelmill.io/index": str(index)}


def test_a_report_of_the_pod_itself_is_answered_and_remembered() -> None:
    desk = Desk()
    assert desk.post(desk.report()) == [(200, {"attempt": 1, "go": False, "stop": False})]
    assert desk.engine.signals.of(desk.report().uid).reports == {0: desk.report()}
    assert desk.engine.waiting(KEY)


@pytest.mark.parametrize(
    ("bearer", "status", "words"),
    [
        ("", 401, "send the pod's token"),
        ("nonsense", 401, "not that of a pod"),
        (token(audience="vault"), 401, "not for the audience 'modelmill'"),
        (token("a-worker-1"), 403, "default/a-worker-1 is not worker 0 of default/a"),
        (token(namespace="other"), 403, "other/a-worker-0 is not worker 0"),
        (token("stranger"), 403, "default/stranger is not worker 0"),
    ],
)
def test_a_token_of_anyone_else_is_refused_in_words(bearer: str, status: int, words: str) -> None:
    desk = Desk()
    [(got, body)] = desk.post(desk.report(), bearer=bearer)
    assert (got, words in body["error"]) == (status, True)
    assert not desk.engine.signals.of(desk.report().uid).reports


@pytest.mark.parametrize(("body", "status"), [("{", 400), ('{"job": 1}', 400), ("x" * (BODY_LIMIT + 1), 413)])
def test_a_report_that_makes_no_sense_is_refused(body: str, status: int) -> None:
    assert Desk().post(body)[0][0] == status


def test_only_the_leader_answers() -> None:
    desk = Desk()
    desk.engine.gate.left = 0
    assert desk.post(desk.report())[0][0] == 503


def test_a_token_is_reviewed_once_and_again_when_it_has_expired() -> None:
    desk = Desk()
    bearer = token(expiry=int(desk.engine.clock.now) + 100)
    desk.post(desk.report(), desk.report(), bearer=bearer)
    assert desk.api.reviews == 1
    desk.engine.clock.now += 101
    desk.post(desk.report(), bearer=bearer)
    assert desk.api.reviews == 2


def test_while_tokens_cannot_be_reviewed_the_launcher_is_asked_to_try_again() -> None:
    desk = Desk()

    def down(verb: str, kind: str) -> None:
        raise Unavailable("down")

    desk.api.before = down
    assert desk.post(desk.report())[0][0] == 503
    desk.api.before = lambda verb, kind: None
    assert desk.post(desk.report())[0][0] == 200


def test_a_launcher_of_a_job_that_is_gone_is_told_to_stop_but_only_after_a_live_look() -> None:
    desk = Desk()
    desk.engine.store.remove(desk.job)
    desk.api.before = lambda verb, kind: (_ for _ in ()).throw(Unavailable("down")) if kind == "TrainingJob" else None
    assert desk.post(desk.report())[0][0] == 503
    desk.api.before = lambda verb, kind: None
    assert desk.post(desk.report())[0] == (200, {"attempt": 1, "go": False, "stop": False})
    desk.api.take("TrainingJob", "a")
    assert desk.post(desk.report())[0] == (200, {"attempt": 0, "go": False, "stop": True})


def test_a_change_of_state_is_looked_at_now_and_mere_progress_later() -> None:
    desk = Desk()
    desk.post(desk.report(state="running"))
    assert desk.engine.waiting(KEY)
    desk.engine.queue.done(KEY)
    desk.post(*(desk.report(state="running", progress=Progress(step=step)) for step in range(1, 6)))
    assert not desk.engine.waiting(KEY)
    desk.engine.clock.now += 10
    assert desk.engine.waiting(KEY)
    desk.engine.queue.done(KEY)
    desk.post(desk.report(state="failed", failure=Failure(reason="RankExited", message="1")))
    assert desk.engine.waiting(KEY)
