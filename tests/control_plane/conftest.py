"""Scenarios that take minutes of waiting run at the same time, on one control plane; each test takes the outcome of one.

A module lists its scenarios in SCENARIOS, by name; a test says by `@pytest.mark.scenario("name")` which one it is about, and
gets its outcome as the fixture `outcome`. Only scenarios of selected tests are started.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.controlplane import control_plane
from tests.cluster.process import wait_until

CRDS = Path(__file__).parents[2] / "crds"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scenario(name): the scenario that the test is about")


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """The scenarios of all selected tests, under way."""
    wanted = {}
    for item in request.session.items:
        for mark in item.iter_markers("scenario"):
            wanted[mark.args[0]] = item.getparent(pytest.Module).obj.SCENARIOS[mark.args[0]]  # type: ignore[union-attr]
    with control_plane() as plane, ThreadPoolExecutor(max_workers=len(wanted)) as pool, pytest.MonkeyPatch.context() as patch:
        plane.kubectl("apply", "-f", str(CRDS))
        wait_until(lambda: plane.kubectl("api-resources").count("modelmill.io/") == 2, "our kinds are served", seconds=60)
        # For what runs in this process; operators that are processes of their own get theirs.
        patch.setenv("KUBECONFIG", str(plane.kubeconfig))
        yield {name: pool.submit(scenario, plane) for name, scenario in wanted.items()}


@pytest.fixture
def outcome(request: pytest.FixtureRequest, outcomes: dict[str, Future[None]]) -> Future[None]:
    """The scenario that the test is marked with."""
    mark = request.node.get_closest_marker("scenario")
    return outcomes[mark.args[0]]
