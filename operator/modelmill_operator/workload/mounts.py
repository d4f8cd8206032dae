"""From URIs in a resource to volumes of a pod, and to the URIs under which the pod sees them.

pvc://CLAIM/PATH        the claim, mounted whole
configmap://NAME/KEY    one key as a file
secret://NAME/KEY       one key as a file
anything else           is opened by the pod itself (s3://, https://, file:// inside the image)
"""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from modelmill_operator.actions import Object


@dataclass(slots=True, kw_only=True)
class Mounts:
    """Collects what one pod mounts."""

    volumes: list[Object] = field(default_factory=list)
    volume_mounts: list[Object] = field(default_factory=list)

    def add(self, name: str, *, source: Object, path: str, read_only: bool = True) -> None:
        self.volumes.append({"name": name, **source})
        self.volume_mounts.append({"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})})

    def uri(self, uri: str, *, name: str, path: str, read_only: bool = True) -> str:
        """Mounts what the URI needs at `path`, as volume `name`; returns the URI that the pod opens."""
        parts = urlsplit(uri)
        key = parts.path.strip("/")
        match parts.scheme:
            case "pvc":
                # Read-only is a matter of the mount: a claim that is read-only as a volume cannot be shared with a writer's pod.
                source: Object = {"persistentVolumeClaim": {"claimName": parts.netloc}}
            case "configmap":
                source = {"configMap": {"name": parts.netloc, "items": [{"key": key, "path": key}]}}
            case "secret":
                source = {"secret": {"secretName": parts.netloc, "items": [{"key": key, "path": key}]}}
            case _:
                return uri
        self.add(name, source=source, path=path, read_only=read_only)
        return f"file://{path}/{key}".rstrip("/")


def describe(volumes: list[Object]) -> str:
    """The things outside the pod that it waits for, for people: `PersistentVolumeClaim data, ConfigMap digits`."""
    found = []
    for volume in volumes:
        if claim := volume.get("persistentVolumeClaim"):
            found.append(f"PersistentVolumeClaim {claim['claimName']}")
        elif config_map := volume.get("configMap"):
            found.append(f"ConfigMap {config_map['name']}")
        elif secret := volume.get("secret"):
            found.append(f"Secret {secret['secretName']}")
    return ", ".join(found)
