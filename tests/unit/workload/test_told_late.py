"""A Job and its pod are watched by two streams: the end of one may be known seconds before the end of the other."""

from datetime import UTC, datetime, timedelta

import pytest

from modelmill_operator.actions import Object
from modelmill_operator.workload import observe

ENDED = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _job(state: str) -> Object:
    conditions = [{"type": state, "status": "True", "lastTransitionTime": "2026-01-01T12:00:00Z"}]
    return {"kind": "Job", "metadata": {"name": "a-publish"}, "status": {"conditions": conditions}}


def _pod(phase: str) -> Object:
    owners = [{"kind": "Job", "name": "a-publish"}]
    return {"kind": "Pod", "metadata": {"name": "p", "ownerReferences": owners}, "status": {"phase": phase}}


@pytest.mark.parametrize(
    ("state", "phases", "seconds", "end"),
    [
        ("Complete", ["Succeeded"], 0, "Complete"),
        ("Complete", ["Failed", "Succeeded"], 0, "Complete"),
        ("Complete", ["Running"], 1, None),
        ("Complete", [], 14, None),
        ("Complete", [], 15, "Complete"),
        ("Failed", ["Failed"], 0, "Failed"),
        ("Failed", ["Running"], 1, None),
        ("Failed", ["Running"], 20, "Failed"),
    ],
)
def test_a_job_is_over_when_the_end_of_its_pod_is_known_or_too_long_ago(
    state: str, phases: list[str], seconds: int, end: str | None
) -> None:
    pods = [_pod(phase) for phase in phases]
    assert observe.job_end(_job(state), pods, now=ENDED + timedelta(seconds=seconds)) == end
