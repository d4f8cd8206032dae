"""Every expression of the dashboards and alerts has data while a model trains, serves and scales; `helm test`.

That each alert fires when it should is tested without a cluster, in tests/control_plane/test_alerts.py.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import load
from examples.demo import install, kube
from tests.cluster import foreign
from tests.e2e import prometheus, resources

ROW = {"instances": [[[[0.0] * 8] * 8]]}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if foreign.kind_of_cluster() != "built-in":
        pytest.skip("only in the built-in cluster does the host reach pods by their addresses")
    with prometheus.running() as running:
        yield running


def test_every_expression_of_the_dashboards_and_alerts_has_data(space: kube.Namespace, url: str) -> None:
    resources.data(space)
    job = resources.training_job(compression=None, evaluation=None, hyperparameters=resources.hyperparameters(epochs=3))
    del job["spec"]["data"]["test"]
    space.apply(job)
    resources.finished(space, "digits")
    space.apply(resources.model_service(variant={"name": "dense"}, scaleTarget=1, stableWindow="6s", maxReplicas=2))
    service = space.until("modelservice", "digits", lambda found: kube.holds(found, "Ready"), seconds=180)
    files = {"load.py": Path(load.__file__).read_text(), "row.json": json.dumps(ROW)}
    space.apply(*kube.client_pod("client", image=install.images()["operator"], files=files))
    space("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
    kube.routed(space, service["status"]["url"])
    command = ("exec", "client", "--", "python", "/files/load.py", service["status"]["url"])
    space(*command, "--connections", "8", "--seconds", "20", "--body", "/files/row.json")
    wanted = prometheus.expressions(namespace=space.name, service="digits")
    assert prometheus.without_data(url, wanted, seconds=60) == {}
    assert prometheus.unhealthy(url) == {}


def test_an_expression_about_what_is_not_there_has_no_data(url: str) -> None:
    wanted = {"a wrong name": "sum(modelmill_operator_leaders)", "not a number": "0 * vector(NaN)"}
    assert prometheus.without_data(url, wanted, seconds=2) == wanted


def test_helm_test_passes() -> None:
    command = ["helm", "test", "modelmill", "--namespace", install.NAMESPACE, "--timeout", "3m"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Succeeded" in done.stdout
