"""A look into the registry's volume, from a pod that mounts it as any other pod does."""

import json

from examples.demo import install, kube

DIGESTS = """
import hashlib, json, pathlib, sys
found = pathlib.Path("/models/registry").glob(f"*/{sys.argv[1]}/*/*.safetensors")
digests = {"/".join(path.parts[-2:]): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
print(json.dumps(digests))
"""


def reader(space: kube.Namespace) -> None:
    """Starts the pod `reader`."""
    config, pod = kube.client_pod("reader", image=install.images()["operator"], files={"digests.py": DIGESTS})
    pod["spec"]["volumes"].append({"name": "models", "persistentVolumeClaim": {"claimName": "models"}})
    pod["spec"]["containers"][0]["volumeMounts"].append({"name": "models", "mountPath": "/models", "readOnly": True})
    space.apply(config, pod)
    space("wait", "--for=condition=Ready", "pod/reader", "--timeout=120s")


def digests(space: kube.Namespace, *, model: str) -> dict[str, str]:
    """The sha256 of the weights of each published version of a model, by VERSION/VARIANT.safetensors."""
    found: dict[str, str] = json.loads(space("exec", "reader", "--", "python", "/files/digests.py", model))
    return found
