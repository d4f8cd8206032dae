"""Where a resource's registry is, as its pods see it: the resource's own, or the one the operator was installed with."""

from modelmill.contract import names
from modelmill_operator.api.common import Registry
from modelmill_operator.settings import Settings
from modelmill_operator.workload.mounts import Mounts


class NoRegistryError(ValueError):
    """Neither the resource nor the operator names a registry."""


def mount(registry: Registry | None, mounts: Mounts, *, settings: Settings, read_only: bool = False) -> str:
    """Mounts the registry where it is a volume; returns the URL that pods use."""
    uri = registry.uri if registry else settings.registry_uri
    if not uri:
        raise NoRegistryError(
            "spec.registry is missing and the operator has no default: set spec.registry.uri, or registry.uri of the chart"
        )
    return mounts.uri(uri, name="registry", path=names.PATH_REGISTRY, read_only=read_only)


def secrets(registry: Registry | None, *, settings: Settings) -> tuple[str, ...]:
    """Secrets whose keys the pods need as variables to reach the registry."""
    if registry is None:
        return (settings.registry_credentials_secret,) if settings.registry_credentials_secret else ()
    return (registry.credentials.secret_name,) if registry.credentials else ()
