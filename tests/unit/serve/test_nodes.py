"""Executor threads on machines with several memory nodes, which sysfs tells of."""

import os
import threading
from pathlib import Path

import pytest

from modelmill.serve import nodes

TWO = {"node0": "0-3,8-11\n", "node1": "4-7,12-15\n"}


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may run on 16 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def sysfs(folder: Path, lists: dict[str, str]) -> Path:
    for name, text in lists.items():
        (folder / name).mkdir()
        (folder / name / "cpulist").write_text(text)
    (folder / "online").write_text("0-1\n")
    return folder


def test_each_node_has_its_processors(tmp_path: Path, everywhere: None) -> None:
    found = nodes.nodes(sysfs(tmp_path, TWO))
    assert found == [{0, 1, 2, 3, 8, 9, 10, 11}, {4, 5, 6, 7, 12, 13, 14, 15}]


def test_nodes_come_in_the_order_of_their_numbers(tmp_path: Path, everywhere: None) -> None:
    found = nodes.nodes(sysfs(tmp_path, {"node10": "10", "node9": "9", "node2": "2"}))
    assert found == [{2}, {9}, {10}]


def test_only_processors_of_the_pod_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 4})
    assert nodes.nodes(sysfs(tmp_path, TWO)) == [{2, 3}, {4}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3})
    assert nodes.nodes(tmp_path) == [{2, 3}]


def test_a_node_of_memory_alone_is_none(tmp_path: Path, everywhere: None) -> None:
    assert nodes.nodes(sysfs(tmp_path, {**TWO, "node2": "\n"})) == nodes.nodes(tmp_path)[:2]


def test_no_sysfs_means_no_nodes(tmp_path: Path) -> None:
    assert nodes.nodes(tmp_path / "missing") == []


def test_this_machine_has_at_least_one() -> None:
    assert frozenset().union(*nodes.nodes()) == os.sched_getaffinity(0)


def test_threads_are_shared_among_nodes() -> None:
    two = [frozenset({0, 1}), frozenset({2, 3})]
    assert nodes.shares(3, two) == [two[0], two[1], two[0]]


@pytest.mark.parametrize(("count", "found"), [(1, 2), (4, 1), (4, 0)])
def test_one_thread_or_one_node_is_left_alone(count: int, found: int) -> None:
    assert nodes.shares(count, [frozenset({number}) for number in range(found)]) == [None] * count


def test_a_thread_stays_where_it_was_told_and_others_do_not_care() -> None:
    before, seen = os.sched_getaffinity(0), list[set[int]]()
    one = frozenset({min(before)})

    def run() -> None:
        nodes.stay(None)
        seen.append(os.sched_getaffinity(0))
        nodes.stay(one)
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before, one]
    assert os.sched_getaffinity(0) == before


def test_a_system_that_forbids_it_is_only_told_of(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError("not allowed")

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    nodes.stay(frozenset({0}))
    assert "cannot stay on one memory node: not allowed" in caplog.text
