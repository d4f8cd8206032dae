"""A cluster in memory for planners: takes their actions as the engine would, and plays kubelet and controllers.

It keeps what the real store keeps, counts what was added and deleted, and can crash the operator after its k-th write.
Names, quotas and validation are the real API server's, and are tested there.
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from modelmill.contract import codec, names, report
from modelmill.contract.jobfile import JobFile
from modelmill.contract.result import Published, Resolved, StageResult, VariantResult
from modelmill_operator.actions import Action, Apply, Create, Delete, Emit, Object, Planner, Scale, SetStatus, Signals, stamped
from modelmill_operator.settings import Settings

SETTINGS = Settings(registry_uri="pvc://models/registry", report_url="http://operator:8443", runtime_image="runtime:1")
START = datetime(2026, 1, 1, tzinfo=UTC)


class Crash(Exception):
    """The operator dies right after a write."""


def default_results(file: JobFile) -> StageResult:
    """What pods of each stage answer when all goes well."""
    variants: tuple[VariantResult, ...] = ()
    if file.stage in ("compress", "evaluate"):
        variants = tuple(
            VariantResult(name=v.name, bytes=100, metrics={"accuracy": 0.9}, passed=file.stage == "evaluate")
            for v in file.variants
        )
    return StageResult(
        stage=file.stage,
        ok=True,
        steps=10,
        loss=0.5,
        variants=variants,
        published=Published(version=1, digest="sha256:aa", channel="stable") if file.stage == "publish" else None,
        resolved=Resolved(version=1, digest="sha256:aa", variant="dense") if file.stage == "resolve" else None,
    )


class World:
    """One resource and its children."""

    def __init__(
        self, resource: Object, planner: Planner, *, results: Callable[[JobFile], StageResult] = default_results
    ) -> None:
        self.resource, self.planner, self.results = copy.deepcopy(resource), planner, results
        self.children: dict[tuple[str, str], Object] = {}
        self.now, self.reports, self.extra = START, dict[int, report.Report](), dict[str, Any]()
        self.added, self.deleted, self.events = Counter[str](), Counter[str](), list[Emit]()
        self.writes, self.crash_after, self._uids = 0, 0, 0
        self.gone = False
        self.broken: set[str] = set()
        """Versions whose server pods crash, as strings."""

    # The operator's half

    def reconcile(self) -> bool:
        """One plan, carried out; True when it changed anything."""
        signals = Signals(reports=dict(self.reports), **self.extra)
        plan = self.planner(
            copy.deepcopy(self.resource), list(self.children.values()), now=self.now, settings=SETTINGS, signals=signals
        )
        return any([self._execute(action) for action in plan.actions])

    def settle(self) -> None:
        for _ in range(50):
            if not self.reconcile():
                return
        raise AssertionError("the plan never comes to rest")

    def _execute(self, action: Action) -> bool:
        match action:
            case Create(object=wanted):
                key = (wanted["kind"], wanted["metadata"]["name"])
                return key not in self.children and self._add(key, wanted)
            case Apply(object=wanted):
                return self._apply(stamped(wanted))
            case Scale(name=name, replicas=replicas):
                self.children["Deployment", name]["spec"]["replicas"] = replicas
                return self._wrote()
            case SetStatus(status=status):
                if status == self.resource.get("status"):
                    return False
                self.resource["status"] = copy.deepcopy(status)
                return self._wrote()
            case Delete(kind=kind, name=name, uid=uid):
                return self._delete(kind, name, uid)
            case Emit():
                self.events.append(action)
                return False

    def _add(self, key: tuple[str, str], wanted: Object) -> bool:
        self._uids += 1
        made = copy.deepcopy(wanted)
        made["metadata"] |= {"uid": f"uid-{self._uids}", "creationTimestamp": self.now.isoformat(), "generation": 1}
        if key[0] == "Deployment":
            made["spec"].setdefault("replicas", 1)
        self.children[key] = made
        self.added[key[0]] += 1
        return self._wrote()

    def _apply(self, wanted: Object) -> bool:
        key = (wanted["kind"], wanted["metadata"]["name"])
        stored = self.children.get(key)
        if stored is None:
            return self._add(key, wanted)
        if stored["metadata"]["annotations"] == wanted["metadata"]["annotations"]:
            return False
        replicas = stored["spec"].get("replicas")
        stored["spec"] = copy.deepcopy(wanted["spec"]) | ({} if replicas is None else {"replicas": replicas})
        stored["metadata"]["annotations"] = wanted["metadata"]["annotations"]
        stored["metadata"]["generation"] += 1
        return self._wrote()

    def _delete(self, kind: str, name: str, uid: str) -> bool:
        if kind == self.resource["kind"]:
            self.gone = True
            return self._wrote()
        if (kind, name) not in self.children or self.children[kind, name]["metadata"]["uid"] != uid:
            return False
        self.remove(kind, name)
        return self._wrote()

    def _wrote(self) -> bool:
        self.writes += 1
        if self.writes == self.crash_after:
            raise Crash
        return True

    # The cluster's half

    def remove(self, kind: str, name: str) -> None:
        del self.children[kind, name]
        self.deleted[kind] += 1
        for other, child in list(self.children.items()):
            if any(owner["name"] == name and owner["kind"] == kind for owner in child["metadata"].get("ownerReferences", ())):
                del self.children[other]

    def pods(self, **labels: str) -> list[Object]:
        wanted = {f"{names.GROUP}/{key}": value for key, value in labels.items()}
        found = [child for (kind, _), child in sorted(self.children.items()) if kind == "Pod"]
        return [pod for pod in found if wanted.items() <= pod["metadata"]["labels"].items()]

    def tick(self, seconds: float = 1.0) -> None:
        """Time passes, and controllers and kubelets do one step each."""
        self.now += timedelta(seconds=seconds)
        for (kind, name), child in list(self.children.items()):
            if kind == "Job":
                self._play_job(name, child)
            elif kind == "Deployment":
                self._play_deployment(child)
            elif kind == "Pod":
                self._play_pod(child)

    def _play_pod(self, pod: Object) -> None:
        phase = pod.setdefault("status", {}).get("phase", "Pending")
        if phase == "Pending" and not pod["status"].get("conditions"):
            pod["status"]["phase"] = "Running"
        elif phase == "Running" and names.ENV_JOB in env(pod):
            result = self.results(codec.loads(JobFile, env(pod)[names.ENV_JOB]))
            self.end(pod, result, code=0 if result.ok else names.EXIT_FATAL if result.fatal else 1)

    def end(self, pod: Object, result: StageResult | None, *, code: int) -> None:
        ended = {"exitCode": code, "message": codec.dumps(result) if result else "Traceback: boom"}
        pod["status"] = {"phase": "Succeeded" if code == 0 else "Failed", "containerStatuses": [{"state": {"terminated": ended}}]}

    def _play_job(self, name: str, job: Object) -> None:
        key = ("Pod", f"{name}-abcde")
        if key not in self.children:
            pod = {"kind": "Pod", **copy.deepcopy(job["spec"]["template"])}
            owners = [{"kind": "Job", "name": name}]
            pod["metadata"] |= {"name": key[1], "namespace": "default", "ownerReferences": owners, "uid": f"{name}-pod"}
            pod["metadata"]["creationTimestamp"] = self.now.isoformat()
            self.children[key] = pod
            return
        phase = self.children[key].get("status", {}).get("phase")
        if phase in ("Succeeded", "Failed"):
            job["status"] = {"conditions": [{"type": "Complete" if phase == "Succeeded" else "Failed", "status": "True"}]}

    def _play_deployment(self, deployment: Object) -> None:
        version = deployment["metadata"]["labels"][names.LABEL_VERSION]
        replicas = deployment["spec"]["replicas"]
        ready = 0 if version in self.broken else replicas
        name = deployment["metadata"]["name"]
        deployment["status"] = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": replicas,
            "updatedReplicas": replicas,
            "availableReplicas": ready,
        }
        for key in [key for key in self.children if key[1].startswith(f"{name}-pod-")]:
            del self.children[key]
        for index in range(replicas):
            pod = {"kind": "Pod", **copy.deepcopy(deployment["spec"]["template"])}
            pod["metadata"] |= {"name": f"{name}-pod-{index}", "namespace": "default", "uid": f"{name}-{index}"}
            pod["metadata"]["creationTimestamp"] = self.now.isoformat()
            pod["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            if version in self.broken:
                result = StageResult(stage="serve", ok=False, reason="LoadFailed", message="digest differs", fatal=True)
                ended = {"exitCode": names.EXIT_FATAL, "message": codec.dumps(result)}
                waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
                pod["status"] = {
                    "phase": "Running",
                    "containerStatuses": [{"restartCount": 1, "state": waiting, "lastState": {"terminated": ended}}],
                }
            self.children["Pod", f"{name}-pod-{index}"] = pod

    def condition(self, kind: str) -> Mapping[str, Any]:
        found = [c for c in self.resource.get("status", {}).get("conditions", ()) if c["type"] == kind]
        return found[0] if found else {}


def env(pod: Object) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in pod["spec"]["containers"][0]["env"]}


def job_files(world: World) -> list[JobFile]:
    return [codec.loads(JobFile, env(pod)[names.ENV_JOB]) for pod in world.pods() if names.ENV_JOB in env(pod)]
