"""Launchers report, the operator replies: the heartbeat, the barrier and the rendezvous in one request.

    POST {report.url}/v1/report      Authorization: Bearer <projected token, audience "modelmill">
    Report (JSON) -> Reply (JSON)

Ranks may leave `Progress` and `Failure` as JSON files for their launcher (see `names.ENV_PROGRESS_FILE`).
"""

from dataclasses import dataclass

from modelmill.contract import CONTRACT_VERSION

WAITING = "waiting"
RUNNING = "running"
FAILED = "failed"
SUCCEEDED = "succeeded"

PEER_LOST = "PeerLost"
"""Reason of a failure whose cause is another rank's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    step: int
    total_steps: int | None = None
    epoch: int | None = None
    loss: float | None = None
    samples_per_second: float | None = None
    eta_seconds: float | None = None
    checkpoint_step: int | None = None
    """Step of the newest complete checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    reason: str
    """CamelCase, fit for a condition: ImportError, DataNotFound, RankExited, Stalled, ..."""
    message: str
    """What happened and what to do, with the tail of the log; at most 2,000 characters."""
    fatal: bool = False
    """True: trying again cannot help."""
    rank: int | None = None
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    namespace: str
    job: str
    uid: str
    index: int
    attempt: int
    state: str
    contract: int = CONTRACT_VERSION
    address: str | None = None
    """Pod IP; with `port`, where rank 0 of this pod would listen in this attempt."""
    port: int | None = None
    progress: Progress | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    attempt: int
    """The wanted attempt. Higher than the launcher's: stop the ranks, wait for `go`."""
    go: bool = False
    """Everyone waits at this attempt: start the ranks."""
    master_address: str | None = None
    master_port: int | None = None
    stop: bool = False
    """The job is over or suspended: stop the ranks and exit."""
