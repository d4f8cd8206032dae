"""What can go wrong with a store, in words that name the URL and say what to do.

`reason` fits a Kubernetes condition; `fatal` means that trying again cannot help until somebody changes something.
"""

from modelmill.failures import Fault


class StorageError(Fault):
    """A store did not do what was asked."""

    reason = "StorageUnavailable"
    fatal = False


class NotFound(StorageError, FileNotFoundError):
    """There is nothing at the URL."""

    reason = "NotFound"
    fatal = True


class BucketNotFound(NotFound):
    """Not even the bucket is there."""

    reason = "BucketNotFound"


class AlreadyExists(StorageError):
    """A conditional create found something in place: somebody else was first."""

    reason = "AlreadyExists"


class Conflict(StorageError):
    """The content is not what the writer expected: somebody else changed it meanwhile."""

    reason = "Conflict"


class AccessDenied(StorageError, PermissionError):
    """The credentials (or the file's owner) do not allow it."""

    reason = "AccessDenied"
    fatal = True


class NoSpace(StorageError):
    """The volume or the quota is full; space may be freed, so it is worth another try."""

    reason = "DiskFull"
