"""The pod that everything runs in: Modelmill's part, then the user's overrides, under the restricted pod security standard."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelmill.contract import names
from modelmill_operator.actions import Object
from modelmill_operator.api.pod import PodOverrides, Resources
from modelmill_operator.workload.mounts import Mounts

USER_ID = 65532
DEFAULT_SHM = "256Mi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What runs in the pod's one container."""

    name: str
    image: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    resources: Resources
    pull_policy: str | None = None
    env_from_secrets: tuple[str, ...] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the container, such as probes."""


def spec(container: Container, *, mounts: Mounts, overrides: PodOverrides, pull_secrets: tuple[str, ...] = ()) -> Object:
    """The spec of a pod; callers add restartPolicy and the like."""
    user = plain(overrides)
    volumes = [
        *mounts.volumes,
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(overrides.shm_size or DEFAULT_SHM)}},
        *user.get("volumes", []),
    ]
    secrets = [{"name": name} for name in dict.fromkeys((*pull_secrets, *(s.name for s in overrides.image_pull_secrets)))]
    optional = {
        key: user[key]
        for key in ("nodeSelector", "affinity", "serviceAccountName", "runtimeClassName", "priorityClassName")
        if user.get(key)
    }
    return {
        "containers": [_container(container, mounts=mounts, user=user)],
        "volumes": volumes,
        "tolerations": user.get("tolerations", []),
        **optional,
        **({"imagePullSecrets": secrets} if secrets else {}),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _container(container: Container, *, mounts: Mounts, user: Mapping[str, Any]) -> Object:
    env_from = [{"secretRef": {"name": name}} for name in container.env_from_secrets]
    return {
        "name": container.name,
        "image": container.image,
        **({"imagePullPolicy": container.pull_policy} if container.pull_policy else {}),
        "command": list(container.command),
        # The user's variables first: of two with one name the later wins, and ours must.
        "env": [
            *user.get("env", []),
            {"name": names.ENV_POD_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            *({"name": name, "value": value} for name, value in container.env.items()),
        ],
        "envFrom": [*env_from, *user.get("envFrom", [])],
        "resources": plain(container.resources),
        "ports": [{"name": name, "containerPort": port} for name, port in container.ports.items()],
        "volumeMounts": [
            *mounts.volume_mounts,
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            *user.get("volumeMounts", []),
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **container.more,
    }


def plain(record: msgspec.Struct) -> dict[str, Any]:
    """A typed part of a resource as the JSON values it came from."""
    value: dict[str, Any] = msgspec.to_builtins(record)
    return value


def metadata(
    name: str, *, owner: Object, role: str, overrides: PodOverrides | None = None, labels: Mapping[str, str] | None = None
) -> Object:
    """Metadata of a child: the user's labels, ours, and the owner. Pod templates take its labels and annotations alone."""
    user_labels = overrides.labels if overrides else {}
    user_annotations = overrides.annotations if overrides else {}
    kind_label = names.LABEL_TRAINING_JOB if owner["kind"] == "TrainingJob" else names.LABEL_MODEL_SERVICE
    return {
        "name": name,
        "namespace": owner["metadata"]["namespace"],
        "labels": {
            **user_labels,
            names.LABEL_MANAGED_BY: names.MANAGED_BY,
            kind_label: owner["metadata"]["name"],
            names.LABEL_UID: owner["metadata"]["uid"],
            names.LABEL_ROLE: role,
            **(labels or {}),
        },
        **({"annotations": dict(user_annotations)} if user_annotations else {}),
        "ownerReferences": [
            {
                "apiVersion": owner["apiVersion"],
                "kind": owner["kind"],
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def template(meta: Object, pod_spec: Object) -> Object:
    """A pod template with the labels and annotations of its owner's metadata."""
    kept = {key: meta[key] for key in ("labels", "annotations") if key in meta}
    return {"metadata": kept, "spec": pod_spec}


def job(meta: Object, pod_spec: Object, *, retries: int) -> Object:
    """A batch Job that runs one pod to its end; an error that the user must mend first is not retried."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            "backoffLimit": retries,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [names.EXIT_FATAL]}},
                ]
            },
            "template": template(meta, {**pod_spec, "restartPolicy": "Never"}),
        },
    }
