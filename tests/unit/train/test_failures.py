"""Which exceptions are worth another try, and what is said about them."""

import errno

import pytest

from modelmill import failures, storage
from modelmill.recipe import RecipeError


class DistBackendError(RuntimeError):
    """Named as torch names it."""


@pytest.mark.parametrize(
    ("error", "reason", "fatal", "words"),
    [
        (ImportError("no module named x"), "ImportError", True, "add what it needs to the image"),
        (ModuleNotFoundError("No module named 'x'"), "ImportError", True, "No module named 'x'"),
        (RecipeError("do this"), "RecipeError", True, "do this"),
        (storage.StorageError("s3://b/x: try later"), "StorageUnavailable", False, "s3://b/x: try later"),
        (OSError(errno.ENOSPC, "No space left on device"), "DiskFull", False, "Enlarge the volume"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/data/x"), "NotFound", True, "/data/x"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "AccessDenied", True, "uid 65532"),
        (MemoryError(), "OutOfMemory", False, "resources.limits.memory"),
        (DistBackendError("NCCL error"), "PeerLost", False, "Another rank went away first"),
        (RuntimeError("[gloo] Connection closed by peer [10.0.0.3]:1234"), "PeerLost", False, "10.0.0.3"),
        (RuntimeError("shapes differ"), "RuntimeError", False, "RuntimeError: shapes differ"),
    ],
)
def test_an_exception_becomes_a_reason_with_advice(error: Exception, reason: str, fatal: bool, words: str) -> None:
    told = failures.describe(error)
    assert (told.reason, told.fatal) == (reason, fatal)
    assert words in told.message


def test_the_message_ends_with_the_place_and_is_short_enough() -> None:
    try:
        raise ValueError("x" * 5000)
    except ValueError as error:
        told = failures.describe(error)
    assert len(told.message) <= failures.MAX_MESSAGE
    assert told.message.endswith('in test_the_message_ends_with_the_place_and_is_short_enough: raise ValueError("x" * 5000)')
