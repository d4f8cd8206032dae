"""Every expression of the dashboards and alerts has data while a model trains, serves and scales."""

import json
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
    command = ("exec", "client", "--", "python", "/files/load.py", service["status"]["url"])
    space(*command, "--connections", "8", "--seconds", "20", "--body", "/files/row.json")
    missing = prometheus.without_data(url, seconds=30)
    assert missing == {}
    assert {series["metric"]["modelservice"] for series in prometheus.query(url, "modelmill:serve_ready_pods")} >= {"digits"}
