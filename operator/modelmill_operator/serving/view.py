"""One look at a ModelService: the resource, its children, the time, and the status in the making."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from modelmill_operator.actions import Action, Delete, Emit, Object, Signals
from modelmill_operator.api.model_service import ModelService
from modelmill_operator.draft import Draft
from modelmill_operator.settings import Settings
from modelmill_operator.workload import observe


@dataclass(slots=True, kw_only=True)
class View:
    service: ModelService
    resource: Object
    children: Sequence[Object]
    draft: Draft
    now: datetime
    settings: Settings
    signals: Signals
    changes: list[Action] = field(default_factory=list)
    """Children to make or change, before the status is written."""
    deletes: list[Action] = field(default_factory=list)
    events: list[Action] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """Seconds after which time alone changes the plan."""

    def child(self, kind: str, name: str) -> Object | None:
        return next((c for c in self.children if c["kind"] == kind and c["metadata"]["name"] == name), None)

    def emit(self, reason: str, message: str, *, warning: bool = False) -> None:
        self.events.append(Emit(type="Warning" if warning else "Normal", reason=reason, message=message[:900]))

    def fail(self, reason: str, message: str, *, version: int | None = None) -> None:
        """Shows a failure once; the same failure again changes nothing."""
        known = self.draft.status.get("lastFailure", {})
        if (known.get("reason"), known.get("message"), known.get("version")) == (reason, message, version):
            return
        entry: Object = {"reason": reason, "message": message, "time": self.draft.now}
        self.draft.set(lastFailure=entry if version is None else {**entry, "version": version})
        self.emit(reason, message, warning=True)

    def delete(self, child: Object) -> None:
        if not observe.deleting(child):
            meta = child["metadata"]
            self.deletes.append(Delete(kind=child["kind"], namespace=meta["namespace"], name=meta["name"], uid=meta["uid"]))
