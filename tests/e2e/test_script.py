"""examples/script: a plain DDP program, as it would be given to torchrun, runs on two pods without knowing of Modelmill."""

import re

import pytest

from examples.demo import kube
from tests.e2e import resources
from tests.e2e.conftest import EXAMPLES


@pytest.fixture(scope="module")
def rings(space: kube.Namespace) -> kube.Object:
    space("apply", "-k", str(EXAMPLES / "script"))
    return resources.finished(space, "rings")


def test_two_pods_train_together(space: kube.Namespace, rings: kube.Object) -> None:
    logs = [space("logs", f"rings-worker-{index}") for index in range(2)]
    for rank, log in enumerate(logs):
        assert f"rank {rank} of 2 on cpu" in log
    accuracies = [float(found) for found in re.findall(r"epoch \d+: loss .*, accuracy ([0-9.]+)", logs[0])]
    assert len(accuracies) == 3
    assert accuracies[-1] > 0.95
    assert rings["status"]["restarts"] == 0


def test_a_script_is_trained_and_nothing_more(space: kube.Namespace, rings: kube.Object) -> None:
    assert [entry["name"] for entry in rings["status"]["stages"]] == ["train"]
    assert kube.holds(rings, "Trained")
    assert not space.list("jobs")
    assert "published" not in rings["status"]
