"""Runs in the pod of `helm test`: asks the API server to take one good and one bad TrainingJob, by dry run."""

import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST = f"{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
URL = f"https://{HOST}/apis/modelmill.io/v1alpha1/namespaces/{os.environ['TEST_NAMESPACE']}/trainingjobs?dryRun=All"


def create(spec: dict[str, Any]) -> tuple[int, str]:
    """The API server's answer to a TrainingJob with this spec."""
    job = {
        "apiVersion": "modelmill.io/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "helm-test"},
        "spec": {"model": {"name": "helm-test"}, **spec},
    }
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"}
    request = urllib.request.Request(URL, data=json.dumps(job).encode(), headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def check(what: str, found: object, *, fine: bool) -> None:
    print("ok  " if fine else "FAIL", what, "" if fine else found, flush=True)
    if not fine:
        raise SystemExit(1)


status, body = create({"script": ["python", "-c", "print(1)"]})
check("a TrainingJob is accepted", body, fine=status == 201)
status, body = create({})
check("one without recipe and script is refused with a sentence", body, fine=status == 422 and "exactly one of recipe" in body)
with urllib.request.urlopen(os.environ["METRICS_URL"], timeout=10) as page:
    check("the operator answers", "", fine=b"modelmill_operator_leader" in page.read())
