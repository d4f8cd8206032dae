"""The barrier and the rendezvous of a gang, answered from its launchers' reports.

They live here, outside the ranks: no pod is special, and any of them can be lost. Nothing needs to survive a restart of
the operator, because launchers repeat their reports every second.
"""

from collections.abc import Mapping

from modelmill.contract import report
from modelmill_operator import api
from modelmill_operator.actions import Object


def answer(resource: Object | None, reports: Mapping[int, report.Report], *, to: report.Report) -> report.Reply:
    """The reply to one launcher. `reports` are the latest ones of its gang, by index, with `to` among them."""
    if resource is None or resource["metadata"]["uid"] != to.uid:
        return report.Reply(attempt=to.attempt, stop=True)
    job = api.parse_training_job(resource)
    attempt = job.status.attempt
    over = any((condition := job.status.condition(kind)) and condition.status == "True" for kind in ("Succeeded", "Failed"))
    if over or job.spec.suspend or job.metadata.deletion_timestamp:
        return report.Reply(attempt=attempt, stop=True)
    present = [reports[index] for index in range(job.spec.gang.workers) if index in reports]
    go = len(present) == job.spec.gang.workers and all(_takes_part(one, attempt=attempt) for one in present)
    if not go:
        return report.Reply(attempt=attempt)
    return report.Reply(attempt=attempt, go=True, master_address=reports[0].address, master_port=reports[0].port)


def _takes_part(one: report.Report, *, attempt: int) -> bool:
    return one.attempt == attempt and one.state in (report.WAITING, report.RUNNING, report.SUCCEEDED)
