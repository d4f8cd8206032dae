"""Plays the kubelet of one namespace on a control plane that has no node, and keeps account of what comes and goes.

Pods run and end as the stage in their job file says, with the termination messages that the real runtime would leave; workers of
a gang wait until they are let go. Jobs, ReplicaSets and garbage collection are the real controllers'. Pods are never bound to a
node, so whoever deletes one is done at once.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from modelmill.contract import codec, names
from modelmill.contract.jobfile import JobFile
from modelmill.contract.result import Published, Resolved, StageResult, VariantResult
from modelmill_operator.engine.kinds import KINDS, WATCHED
from tests.cluster.controlplane import ControlPlane

Json = dict[str, Any]
CHILDREN = [kind for kind in WATCHED.values() if not kind.own]
POLL = 0.4


class Player:
    """One namespace's kubelet and bookkeeper."""

    def __init__(self, plane: ControlPlane, *, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace
        self.workers_may_end = False
        self.registry_version = 1
        self.counts: Counter[tuple[str, str]] = Counter()

    async def __aenter__(self) -> Player:
        authority = self.plane.authority
        context = ssl.create_default_context(cafile=str(authority.root.crt))
        admin = authority.issue("admin", user="admin", groups=["system:masters"])
        context.load_cert_chain(admin.crt, admin.key)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        self._session = aiohttp.ClientSession(base_url=self.plane.server, connector=connector, timeout=timeout)
        await self.call("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        started = [await self._start_counting(kind.name) for kind in CHILDREN]
        self._tasks = [*started, asyncio.create_task(self._play())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """A request as the administrator; the answer, whatever its code."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        async with self._session.request(method, path, data=json.dumps(body or {}), headers={"Content-Type": kind}) as response:
            answer: Json = await response.json()
            return answer

    async def find(self, kind: str, name: str) -> Json | None:
        found = await self.call("GET", KINDS[kind].path(namespace=self.namespace, name=name))
        return found if found.get("kind") == kind else None

    async def all(self, kind: str) -> list[Json]:
        answer = await self.call("GET", KINDS[kind].path(namespace=self.namespace))
        items: list[Json] = answer["items"]
        return items

    async def children(self) -> list[Json]:
        """Everything that the operator, or a controller for it, has made here."""
        found = []
        for kind in CHILDREN:
            for item in await self.all(kind.name):
                if item["metadata"].get("labels", {}).get(names.LABEL_MANAGED_BY) == names.MANAGED_BY:
                    found.append({**item, "kind": kind.name})
        return found

    async def _start_counting(self, kind: str) -> asyncio.Task[None]:
        version = (await self.call("GET", KINDS[kind].path(namespace=self.namespace)))["metadata"]["resourceVersion"]
        return asyncio.create_task(self._count(kind, version))

    async def _count(self, kind: str, version: str) -> None:
        seen: set[tuple[str, str]] = set()
        while True:
            async for event in self._watch(kind, version):
                metadata = event["object"]["metadata"]
                version = metadata["resourceVersion"]
                fact = (event["type"], metadata.get("uid", ""))
                if event["type"] in ("ADDED", "DELETED") and fact not in seen and names.LABEL_UID in metadata.get("labels", {}):
                    seen.add(fact)
                    self.counts[event["type"], kind] += 1

    async def _watch(self, kind: str, version: str) -> AsyncIterator[Json]:
        query = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
        async with self._session.get(KINDS[kind].path(namespace=self.namespace), params=query) as response:
            async for line in response.content:
                yield json.loads(line)

    async def _play(self) -> None:
        while True:
            for pod in await self.all("Pod"):
                status = self._next(pod)
                if status is not None:
                    path = KINDS["Pod"].path(namespace=self.namespace, name=pod["metadata"]["name"], subresource="status")
                    metadata = {"uid": pod["metadata"]["uid"], "resourceVersion": pod["metadata"]["resourceVersion"]}
                    await self.call("PATCH", path, {"metadata": metadata, "status": status})
            await asyncio.sleep(POLL)

    def _next(self, pod: Json) -> Json | None:
        """The pod's next status; None when it stays as it is."""
        role = pod["metadata"].get("labels", {}).get(names.LABEL_ROLE)
        phase = pod["status"].get("phase", "Pending")
        if role is None or pod["metadata"].get("deletionTimestamp") or phase in ("Succeeded", "Failed"):
            return None
        if phase == "Pending":
            return _status(pod, phase="Running", state={"running": {}}, ready=role == names.ROLE_SERVER)
        if role == names.ROLE_SERVER or (role == names.ROLE_WORKER and not self.workers_may_end):
            return None
        text = next(item["value"] for item in pod["spec"]["containers"][0]["env"] if item["name"] == names.ENV_JOB)
        message = codec.dumps(self._result(codec.loads(JobFile, text)))
        return _status(pod, phase="Succeeded", state={"terminated": {"exitCode": 0, "message": message}}, ready=False)

    def _result(self, file: JobFile) -> StageResult:
        passed = file.stage == "evaluate"
        variants = tuple(
            VariantResult(name=variant.name, bytes=100, metrics={"accuracy": 0.9}, passed=passed)
            for variant in file.variants
            if file.stage in ("compress", "evaluate")
        )
        published = Published(version=1, digest="sha256:aa", channel="stable") if file.stage == "publish" else None
        found = self.registry_version
        resolved = Resolved(version=found, digest=f"sha256:{found}", variant="dense") if file.stage == "resolve" else None
        return StageResult(
            stage=file.stage, ok=True, steps=10, loss=0.5, variants=variants, published=published, resolved=resolved
        )


def _status(pod: Json, *, phase: str, state: Json, ready: bool) -> Json:
    container = pod["spec"]["containers"][0]
    truth = "True" if ready else "False"
    return {
        "phase": phase,
        "conditions": [{"type": kind, "status": truth} for kind in ("Ready", "ContainersReady")],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": ready,
                "restartCount": 0,
                "state": state,
            }
        ],
    }
