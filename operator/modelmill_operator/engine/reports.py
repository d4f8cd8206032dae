"""The endpoint that launchers report to: POST /v1/report, a Report in, a Reply out.

Only the leader answers; the others say 503 and the launcher tries again. A token proves which pod is talking, and that pod must
be the very gang member that the report is about. A change of state has the job looked at immediately; mere progress
reaches its status once in a while, or it would be a write a second for each job.
"""

import logging
import ssl
from collections.abc import Mapping
from typing import Protocol

from aiohttp import web

from modelmill.contract import codec, names
from modelmill.contract.report import Reply, Report
from modelmill_operator.actions import Object
from modelmill_operator.engine.client import ApiError, Client, NotFound
from modelmill_operator.engine.kinds import TRAINING_JOB, Id, Key, uid_of
from modelmill_operator.engine.lease import Fence
from modelmill_operator.engine.metrics import Metrics
from modelmill_operator.engine.queue import WorkQueue
from modelmill_operator.engine.signals import SignalBoard
from modelmill_operator.engine.store import Store
from modelmill_operator.engine.tokens import Sender, Tokens
from modelmill_operator.settings import Settings

logger = logging.getLogger(__name__)

BODY_LIMIT = 64 * 1024


class Answer(Protocol):
    """The gang's barrier: the job and the latest report of each launcher in, the reply to one of them out."""

    def __call__(self, resource: Object | None, reports: Mapping[int, Report], *, to: Report) -> Reply: ...


class ReportServer:
    """Takes reports for the jobs in the store."""

    def __init__(
        self,
        settings: Settings,
        *,
        client: Client,
        answer: Answer,
        tokens: Tokens,
        store: Store,
        queue: WorkQueue,
        signals: SignalBoard,
        fence: Fence,
        metrics: Metrics,
    ) -> None:
        self._settings, self._client = settings, client
        self._answer, self._tokens = answer, tokens
        self._store, self._queue, self._signals = store, queue, signals
        self._fence, self._metrics = fence, metrics

    def application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_post("/v1/report", self._handle)
        return app

    def tls(self) -> ssl.SSLContext | None:
        """HTTPS where there is a certificate."""
        if not self._settings.report_cert_file:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._settings.report_cert_file, self._settings.report_key_file)
        return context

    async def _handle(self, request: web.Request) -> web.Response:
        try:
            reply = await self._reply(request)
        except _Refusal as refusal:
            self._metrics.reports.labels(str(refusal.status)).inc()
            return web.json_response({"error": refusal.message}, status=refusal.status)
        self._metrics.reports.labels("200").inc()
        return web.json_response(codec.to_dict(reply))

    async def _reply(self, request: web.Request) -> Reply:
        if self._fence.remaining() <= 0:
            raise _Refusal(503, "this replica does not lead: try again")
        sender = await self._sender(request.headers.get("Authorization", ""))
        try:
            report = codec.loads(Report, await request.read())
        except codec.ContractError as error:
            raise _Refusal(400, f"the report is not understood: {error}") from error
        except web.HTTPRequestEntityTooLarge as error:
            raise _Refusal(413, f"the report is larger than {BODY_LIMIT} bytes") from error
        key = Key(TRAINING_JOB, report.namespace, report.job)
        job = await self._job(key, uid=report.uid)
        if job is None:
            return self._answer(None, {}, to=report)
        self._check(sender, report)
        before = self._signals.report(report)
        if before is None or _state(before) != _state(report):
            self._queue.add(key)
        elif before.progress != report.progress:
            self._queue.add_later(key, self._settings.progress_interval)
        return self._answer(job, self._signals.of(report.uid).reports, to=report)

    async def _job(self, key: Key, *, uid: str) -> Object | None:
        job = self._store.resource(key)
        if job is None or uid_of(job) != uid:
            # A launcher that is told to stop throws work away: not on the word of a store that may lag behind.
            try:
                job = await self._client.get(key.kind, namespace=key.namespace, name=key.name)
            except NotFound:
                return None
            except ApiError as error:
                raise _Refusal(503, "the job cannot be read now: try again") from error
        return job if uid_of(job) == uid else None

    async def _sender(self, authorization: str) -> Sender:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _Refusal(401, "send the pod's token: Authorization: Bearer ...")
        try:
            sender = await self._tokens.sender(token)
        except ApiError as error:
            raise _Refusal(503, "the token cannot be reviewed now: try again") from error
        if sender is None:
            raise _Refusal(401, f"the token is not that of a pod, or not for the audience {self._settings.report_audience!r}")
        return sender

    def _check(self, sender: Sender, report: Report) -> None:
        pod = self._store.get(Id("Pod", sender.namespace, sender.pod))
        labels = (pod or {}).get("metadata", {}).get("labels") or {}
        wanted = {names.LABEL_UID: report.uid, names.LABEL_INDEX: str(report.index), names.LABEL_ROLE: names.ROLE_WORKER}
        if sender.namespace != report.namespace or {name: labels.get(name) for name in wanted} != wanted:
            wrong = f"pod {sender.namespace}/{sender.pod} is not worker {report.index} of {report.namespace}/{report.job}"
            raise _Refusal(403, wrong)


class _Refusal(Exception):
    """A report that is not taken."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def _state(report: Report) -> tuple[object, ...]:
    """What the gang's decisions rest on: everything but progress."""
    return (report.state, report.attempt, report.address, report.port, report.failure)
