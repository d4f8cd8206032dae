"""The real engine with the smallest planners: one ConfigMap for each resource, and a status that says so.

    python -m tests.control_plane.toy_operator [the operator's flags]

Tests of the engine use it where the real planners would only add noise.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime

from modelmill.contract import names
from modelmill.contract.report import Reply, Report
from modelmill_operator import logs, settings
from modelmill_operator.actions import Apply, Object, Plan, SetStatus, Signals
from modelmill_operator.engine import app
from modelmill_operator.engine.kinds import MODEL_SERVICE, TRAINING_JOB


def plan(resource: Object, children: Sequence[Object], *, now: datetime, settings: settings.Settings, signals: Signals) -> Plan:
    status = {"observedGeneration": resource["metadata"]["generation"]}
    return Plan(actions=(Apply(object=child_of(resource)), SetStatus(status=status)))


def child_of(resource: Object) -> Object:
    """The one child that the toy planner wants; its data follows the spec."""
    metadata = resource["metadata"]
    kind = resource["kind"]
    label = names.LABEL_TRAINING_JOB if kind == TRAINING_JOB else names.LABEL_MODEL_SERVICE
    owner = {"apiVersion": resource["apiVersion"], "kind": kind, "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{metadata['name']}-child",
            "namespace": metadata["namespace"],
            "labels": {
                names.LABEL_MANAGED_BY: names.MANAGED_BY,
                names.LABEL_UID: metadata["uid"],
                label: metadata["name"],
            },
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "data": {"generation": str(metadata["generation"])},
    }


def answer(resource: Object | None, reports: Mapping[int, Report], *, to: Report) -> Reply:
    return Reply(attempt=to.attempt, stop=resource is None)


def main() -> None:
    chosen = settings.load(sys.argv[1:])
    logs.configure(level=chosen.log_level, as_json=chosen.log_json)
    sys.exit(asyncio.run(app.run(chosen, planners={TRAINING_JOB: plan, MODEL_SERVICE: plan}, answer=answer)))


if __name__ == "__main__":
    main()
