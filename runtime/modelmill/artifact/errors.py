"""What can be wrong with a model, a version or a channel; every message says what there is and what to do."""

from modelmill.failures import Fault


class RegistryError(Fault):
    """The registry cannot give or take what was asked."""

    reason = "RegistryError"
    fatal = True


class ModelNotFound(RegistryError):
    reason = "ModelNotFound"


class VersionNotFound(RegistryError):
    reason = "VersionNotFound"


class VariantNotFound(RegistryError):
    reason = "VariantNotFound"


class GenerativeModel(RegistryError):
    """What was asked is possible only for a model whose module is built here."""

    reason = "GenerativeModel"


class ChannelEmpty(RegistryError):
    reason = "ChannelEmpty"


class ManifestError(RegistryError):
    """A manifest that cannot be believed."""

    reason = "BadManifest"


class DigestMismatch(RegistryError):
    """Bytes are not those that were published."""

    reason = "DigestMismatch"


class ClaimLost(RegistryError):
    """The number that a publisher held went to nobody or to somebody else; a new run claims another."""

    reason = "ClaimLost"
    fatal = False


class NotPublishable(RegistryError):
    """What should become a version lacks something."""

    reason = "NotPublishable"
