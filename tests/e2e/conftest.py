"""The cluster that `make cluster` brought up, the chart with the images that `make images` built, a namespace a module.

Nothing is faked here: real kubelet, real pods, the operator installed by Helm. Figures named in the project's promises are
collected by `must` and written to the file that the variable JSON names.
"""

import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from examples.demo import install, kube
from tests.cluster import build, builtin, foreign

EXAMPLES = Path(__file__).parents[2] / "examples"
Record = Callable[[str, float, str], None]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: the test changes what tests in other processes need meanwhile")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Path:
    """A folder of this run, which all its processes (`pytest -n`) see."""
    folder = tmp_path_factory.getbasetemp().parent / testrun_uid
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session", autouse=True)
def cluster(shared: Path) -> None:
    """kubectl and helm of the local cluster for this process, and the chart installed, by the first of all processes."""
    ours = foreign.kind_of_cluster() == "built-in"
    os.environ["PATH"] = build.search_path()
    os.environ["KUBECONFIG"] = str(builtin.plane().kubeconfig if ours else foreign.kubeconfig())
    with _locked(shared):
        if (shared / "installed").exists():
            return
        if ours:
            builtin.addons().recycle_volumes()
        # Progress is otherwise written every 10 s at most: too rarely to catch a short job in the middle.
        install.install("settings.progress_interval=2")
        (shared / "installed").touch()


@pytest.fixture(scope="session")
def must(shared: Path, worker_id: str) -> Iterator[Record]:
    """Records a promised figure: must(name, value, unit)."""
    found: list[dict[str, Any]] = []
    yield lambda name, value, unit: found.append({"name": name, "value": value, "unit": unit})
    if path := os.environ.get("JSON"):
        with _locked(shared):
            (shared / f"must-{worker_id}.json").write_text(json.dumps(found))
            every = [entry for part in sorted(shared.glob("must-*.json")) for entry in json.loads(part.read_text())]
            Path(path).write_text(json.dumps({"must": every}, indent=1) + "\n")


@pytest.fixture(scope="module")
def space(request: pytest.FixtureRequest) -> Iterator[kube.Namespace]:
    """A namespace with a volume for models; what was in it is printed when a test of the module failed."""
    made = kube.Namespace(f"e2e-{request.module.__name__.rpartition('_')[2]}-{uuid.uuid4().hex[:4]}")
    made.create()
    made("apply", "-f", str(EXAMPLES / "digits" / "registry.yaml"))
    failed_before = request.session.testsfailed
    yield made
    if request.session.testsfailed > failed_before:
        # Captured output is only shown of a test that failed, and the last one of the module need not be it.
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            _tell(made)
    made.delete(wait=False)


def _tell(space: kube.Namespace) -> None:
    for arguments in (
        ("get", "tj,msvc,jobs,pods,deployments", "-o", "wide"),
        ("get", "tj,msvc", "-o", "yaml"),
        ("get", "events"),
    ):
        print(space(*arguments)[-8000:])
    for pod in space.list("pods"):
        name = pod["metadata"]["name"]
        try:
            print(f"--- {name}\n" + space("logs", name, "--tail=40"))
        except kube.KubeError as error:
            print(error)
    print(kube.kubectl("-n", install.NAMESPACE, "logs", "deploy/modelmill-operator", "--all-pods", "--tail=80"))
