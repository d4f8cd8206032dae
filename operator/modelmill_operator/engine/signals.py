"""What is known of a resource only in memory: reports of launchers, decisions of the autoscaler, the API server's refusals."""

from dataclasses import dataclass, field

from modelmill.contract.report import Report
from modelmill_operator.actions import ScalingDecision, Signals


@dataclass(slots=True, kw_only=True)
class _Facts:
    reports: dict[int, Report] = field(default_factory=dict)
    scaling: ScalingDecision | None = None
    channel_version: int | None = None
    refused: str | None = None


class SignalBoard:
    """Facts by the uid of the resource: a resource created anew under an old name starts with none."""

    def __init__(self) -> None:
        self._facts: dict[str, _Facts] = {}

    def of(self, uid: str) -> Signals:
        facts = self._facts.get(uid)
        if facts is None:
            return Signals()
        return Signals(
            reports=dict(facts.reports),
            scaling=facts.scaling,
            channel_version=facts.channel_version,
            refused=facts.refused,
        )

    def report(self, report: Report) -> Report | None:
        """Takes in a launcher's report; the one before it."""
        reports = self._of(report.uid).reports
        before = reports.get(report.index)
        reports[report.index] = report
        return before

    def scale(self, uid: str, *, decision: ScalingDecision | None, channel_version: int | None) -> bool:
        """Takes in what the autoscaler found. True when a planner could act on it differently than before."""
        facts = self._of(uid)
        before = (facts.scaling and (facts.scaling.replicas, facts.scaling.panicking), facts.channel_version)
        facts.scaling, facts.channel_version = decision or facts.scaling, channel_version
        return before != (facts.scaling and (facts.scaling.replicas, facts.scaling.panicking), channel_version)

    def refuse(self, uid: str, message: str | None) -> bool:
        """Takes in that the API server refused a plan, or (None) that one went through. True when that is news."""
        if message is None and uid not in self._facts:
            return False
        facts = self._of(uid)
        news = facts.refused != message
        facts.refused = message
        return news

    def drop(self, uid: str) -> None:
        self._facts.pop(uid, None)

    def _of(self, uid: str) -> _Facts:
        return self._facts.setdefault(uid, _Facts())
