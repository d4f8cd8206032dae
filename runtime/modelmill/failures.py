"""Turns an exception into a reason, a sentence and the verdict whether trying again can help.

Ranks leave the outcome for their launcher, stages put it into their result; both become a condition of the
TrainingJob. An exception class of ours says it itself, with `reason` and `fatal` as class attributes; everything else
is looked up here. Only what the user must change is fatal: a fault of the machine or the network is tried again.
"""

import errno
import traceback

from modelmill.contract.report import PEER_LOST, Failure

MAX_MESSAGE = 2000
_FATAL_TYPES: tuple[type[BaseException], ...] = (ImportError, SyntaxError, NotImplementedError)
# Words of gloo, NCCL and torch's store for "somebody else went away": the cause is in another rank's failure.
_PEER_WORDS = ("connection closed by peer", "connection reset by peer", "broken pipe", "connection refused", "socket closed")
_PEER_TYPES = ("DistBackendError", "DistNetworkError", "DistStoreError", "DistError")


class Fault(Exception):
    """An error that knows how it should be told; subclasses set both attributes."""

    reason = "Failed"
    fatal = True


class BadInput(ValueError):
    """For a recipe's `preprocess` to raise: what a client sent cannot be used. That client is told so, with these words."""


def describe(error: BaseException) -> Failure:
    """The failure that `error` stands for; unless it is a `Fault`, the message ends with its traceback."""
    reason, advice, fatal = _classify(error)
    text = str(error) or type(error).__name__
    told = text if isinstance(error, Fault) else f"{type(error).__name__}: {text}"
    if advice:
        told = f"{told}. {advice}"
    # A fault of ours says what to do; anything else is for somebody who reads code.
    frames = "" if isinstance(error, Fault) else _frames(error)
    return Failure(reason=reason, message=_shorten(told, frames), fatal=fatal)


def _classify(error: BaseException) -> tuple[str, str, bool]:
    """Reason, advice (may be empty) and whether it is fatal."""
    name, text = type(error).__name__, str(error)
    reason, fatal = getattr(error, "reason", None), getattr(error, "fatal", None)
    if isinstance(reason, str) and isinstance(fatal, bool):
        return reason, "", fatal
    if isinstance(error, _FATAL_TYPES):
        kind = "ImportError" if isinstance(error, ImportError) else name
        return kind, "Correct the recipe, or add what it needs to the image", True
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "DiskFull", "Enlarge the volume, or keep fewer checkpoints and versions", False
    if isinstance(error, FileNotFoundError):
        return "NotFound", "Check the URI, and that the volume or bucket is the one you meant", True
    if isinstance(error, PermissionError):
        return "AccessDenied", "Check the credentials Secret, or who owns the files of the volume (pods run as uid 65532)", True
    if name == "OutOfMemoryError":
        return "GPUOutOfMemory", "Lower hyperparameters.batchSize, or ask for a larger GPU", False
    if isinstance(error, MemoryError):
        return "OutOfMemory", "Raise resources.limits.memory, or lower hyperparameters.batchSize", False
    if name in _PEER_TYPES or (isinstance(error, RuntimeError | OSError) and any(w in text.lower() for w in _PEER_WORDS)):
        return PEER_LOST, "Another rank went away first: its failure tells why", False
    return name, "", False


def _frames(error: BaseException) -> str:
    """The last frames that led to the error, without the message itself."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return "".join(f"\n  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line or ''}" for frame in frames)


def _shorten(told: str, frames: str) -> str:
    room = max(0, MAX_MESSAGE - len(frames))
    if len(told) > room:
        told = told[: max(0, room - 3)] + "..."
    return (told + frames)[:MAX_MESSAGE]
