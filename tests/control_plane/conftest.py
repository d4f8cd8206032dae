"""Scenarios that take minutes of waiting run at the same time, on one control plane and beside all other tests, from the
session's start; each test takes the outcome of one, after all other tests.

A module lists its scenarios in SCENARIOS, by name; a test says by `@pytest.mark.scenario("name")` which one it is about, and
gets its outcome as the fixture `outcome`. Only scenarios of selected tests are started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.controlplane import ControlPlane, control_plane
from tests.cluster.process import wait_until

CRDS = Path(__file__).parents[2] / "crds"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scenario(name): the scenario that the test is about")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("scenario") is not None)


@pytest.fixture(scope="session", autouse=True)
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """The scenarios of all selected tests, under way."""
    wanted: dict[str, Callable[[ControlPlane], None]] = {}
    for item in request.session.items:
        for mark in item.iter_markers("scenario"):
            wanted[mark.args[0]] = item.getparent(pytest.Module).obj.SCENARIOS[mark.args[0]]  # type: ignore[union-attr]  # each test has a module
    if not wanted:
        yield {}
        return
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
