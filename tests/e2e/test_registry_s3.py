"""A registry in a bucket instead of on a volume: two jobs publish to it at once, and a service serves from it."""

import json
from collections.abc import Iterator

import pytest
import s3fs

from examples.demo import kube
from tests.cluster import config
from tests.cluster.s3 import S3, s3_server
from tests.e2e import resources, serving

CREDENTIALS = "s3-credentials"
JOBS = ("one", "other")


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """A server where pods reach it: on this machine, which is the node."""
    with s3_server(host=config.node_address()) as server:
        yield server


@pytest.fixture(scope="module")
def registry(space: kube.Namespace, s3: S3) -> kube.Object:
    """spec.registry of the resources here."""
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key, "AWS_ENDPOINT_URL_S3": s3.endpoint}
    literals = (f"--from-literal={name}={value}" for name, value in {**keys, "AWS_REGION": "us-east-1"}.items())
    space("create", "secret", "generic", CREDENTIALS, *literals)
    return {"uri": f"s3://{s3.bucket}/models", "credentials": {"secretName": CREDENTIALS}}


@pytest.fixture(scope="module")
def locked_out(space: kube.Namespace, registry: kube.Object, s3: S3) -> None:
    """A service with credentials that the server does not know."""
    keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_ENDPOINT_URL_S3": s3.endpoint}
    space("create", "secret", "generic", "wrong", *(f"--from-literal={name}={value}" for name, value in keys.items()))
    space.apply(serving.service("locked-out", registry={**registry, "credentials": {"secretName": "wrong"}}))


@pytest.fixture(scope="module")
def jobs(space: kube.Namespace, registry: kube.Object, locked_out: None) -> list[kube.Object]:
    """Two jobs with one model, trained and published at the same time."""
    resources.data(space)
    quick = {
        "registry": registry,
        "strategy": {"dataParallel": {"workers": 1}},
        "evaluation": {"metrics": ["accuracy"]},
        "hyperparameters": resources.hyperparameters(epochs=4),
    }
    variants = {
        name: {"variants": [{"name": "int8", "steps": [{"quantize": {"method": "Uniform", "bits": 8}}]}]} for name in JOBS
    }
    searched = {"search": {"objective": "Size", "maxDrop": "0.02", "evaluations": 3}}
    variants["one"]["variants"].append({"name": "searched", "steps": [searched]})
    space.apply(*(resources.training_job(name, model={"name": "digits"}, compression=variants[name], **quick) for name in JOBS))
    return [resources.finished(space, name) for name in JOBS]


def test_jobs_that_publish_at_once_get_numbers_of_their_own(jobs: list[kube.Object]) -> None:
    assert {job["status"]["published"]["version"] for job in jobs} == {1, 2}


def test_a_search_leaves_its_front_beside_the_variant_in_the_version(jobs: list[kube.Object], s3: S3) -> None:
    status = jobs[0]["status"]
    sizes = {entry["name"]: entry["bytes"] for entry in status["variants"]}
    assert sizes["searched"] < sizes["dense"]
    bucket = s3fs.S3FileSystem(key=s3.access_key, secret=s3.secret_key, endpoint_url=s3.endpoint)
    published = f"/digits/{status['published']['version']}/"
    files = {path.rpartition("/")[2]: path for path in bucket.find(s3.bucket) if published in path}
    front = json.loads(bucket.cat_file(files["searched.search.json"]))
    chosen = front["front"][front["chosen"]]["measured"]
    assert chosen["drop"] <= 0.02
    assert chosen["bytes"] < front["dense"]["bytes"]
    assert bucket.cat_file(files["searched.search.png"])[:4] == b"\x89PNG"


def test_a_service_serves_from_the_bucket(space: kube.Namespace, jobs: list[kube.Object], registry: kube.Object) -> None:
    digests = {job["status"]["published"]["version"]: job["status"]["published"]["digest"] for job in jobs}
    serving.client(space)
    # The same weights came from the same seed; only the newest is in the channel.
    space.apply(serving.service(registry=registry, variant={"name": "int8"}))
    found = serving.served(space, 2)
    assert (found["status"]["digest"], found["status"]["variant"]) == (digests[2], "int8")
    assert serving.answering_version(space, found) == 2
    pod = serving.server(space)
    (container,) = pod["spec"]["containers"]
    assert {"secretRef": {"name": CREDENTIALS}} in container["envFrom"]
    assert not any("persistentVolumeClaim" in volume for volume in pod["spec"]["volumes"])


@pytest.mark.usefixtures("locked_out")
def test_wrong_credentials_are_told(space: kube.Namespace, s3: S3) -> None:
    found = space.until("modelservice", "locked-out", lambda found: "lastFailure" in found["status"], seconds=serving.SECONDS)
    told = kube.condition(found, "Resolved")
    assert told is not None
    assert told["status"] == "False"
    assert s3.bucket in told["message"], told
