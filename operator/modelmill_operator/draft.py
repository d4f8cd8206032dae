"""A status in the making: starts as what is stored, so that what a planner does not touch stays."""

import copy
from datetime import datetime
from typing import Any

from modelmill_operator.actions import Object, SetStatus
from modelmill_operator.api import times

MESSAGE_LIMIT = 4096


class Draft:
    """The next status of one resource."""

    def __init__(self, resource: Object, *, now: datetime) -> None:
        self.status: Object = copy.deepcopy(resource.get("status") or {})
        self.status["observedGeneration"] = resource["metadata"].get("generation", 0)
        self.now = times.timestamp(now)

    def set(self, **values: Any) -> None:
        """Sets top-level fields by their names in JSON; None removes one."""
        for key, value in values.items():
            if value is None:
                self.status.pop(key, None)
            else:
                self.status[key] = value

    def condition(self, kind: str, holds: bool | None, *, reason: str, message: str = "") -> None:
        """Sets a condition; its transition time changes only with its status."""
        conditions = self.status.setdefault("conditions", [])
        status = {True: "True", False: "False", None: "Unknown"}[holds]
        wanted = {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message[:MESSAGE_LIMIT],
            "observedGeneration": self.status["observedGeneration"],
            "lastTransitionTime": self.now,
        }
        for index, stored in enumerate(conditions):
            if stored["type"] == kind:
                if stored["status"] == status:
                    wanted["lastTransitionTime"] = stored.get("lastTransitionTime", self.now)
                conditions[index] = wanted
                return
        conditions.append(wanted)

    def holds(self, kind: str) -> bool:
        return any(c["type"] == kind and c["status"] == "True" for c in self.status.get("conditions", ()))

    def failing(self, kind: str) -> Object | None:
        """The condition when it is known not to hold."""
        conditions = self.status.get("conditions", ())
        return next((c for c in conditions if c["type"] == kind and c["status"] == "False"), None)

    def entry(self, field: str, name: str) -> Object:
        """The entry called `name` of a list of named objects, made when it is not there."""
        entries: list[Object] = self.status.setdefault(field, [])
        for found in entries:
            if found["name"] == name:
                return found
        entries.append({"name": name})
        return entries[-1]

    def action(self) -> SetStatus:
        return SetStatus(status=self.status)
