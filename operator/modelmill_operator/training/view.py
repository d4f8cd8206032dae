"""One look at a TrainingJob: the resource, its children, the time, and the status in the making."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from modelmill_operator.actions import Action, Delete, Emit, Object, Signals
from modelmill_operator.api.training_job import TrainingJob
from modelmill_operator.draft import Draft
from modelmill_operator.settings import Settings
from modelmill_operator.workload import observe


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a stage stands: done, failed (with a reason), or neither."""

    done: bool = False
    reason: str | None = None
    message: str = ""

    @property
    def failed(self) -> bool:
        return self.reason is not None


RUNNING = Outcome()
DONE = Outcome(done=True)


@dataclass(slots=True, kw_only=True)
class View:
    job: TrainingJob
    resource: Object
    children: Sequence[Object]
    draft: Draft
    now: datetime
    settings: Settings
    signals: Signals
    creates: list[Action] = field(default_factory=list)
    deletes: list[Action] = field(default_factory=list)
    events: list[Action] = field(default_factory=list)
    attempt_raised: bool = False

    def stage(self, name: str) -> Object:
        """The stage's entry in the status in the making."""
        return self.draft.entry("stages", name)

    def begin(self, name: str) -> Object:
        entry = self.stage(name)
        entry.setdefault("startTime", self.draft.now)
        self.draft.status.setdefault("startTime", self.draft.now)
        self.draft.set(stage=name.partition("-")[0])
        return entry

    def end(self, name: str) -> None:
        entry = self.stage(name)
        entry.setdefault("completionTime", self.draft.now)
        entry.pop("message", None)

    def emit(self, reason: str, message: str, *, warning: bool = False) -> None:
        self.events.append(Emit(type="Warning" if warning else "Normal", reason=reason, message=message))

    def delete(self, child: Object) -> None:
        if not observe.deleting(child):
            meta = child["metadata"]
            self.deletes.append(Delete(kind=child["kind"], namespace=meta["namespace"], name=meta["name"], uid=meta["uid"]))
