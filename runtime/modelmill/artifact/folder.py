"""One version's folder, served without the registry around it: a download, a copy, or the folder of a registry itself.

The folder is linked to where it would be in a registry, so that it is opened like every other version. Its files are
checked against its manifest; the manifest itself comes from whoever gave the folder.
"""

from pathlib import Path

from modelmill.artifact import manifest as manifests
from modelmill.artifact.errors import VersionNotFound
from modelmill.artifact.manifest import Manifest
from modelmill.artifact.registry import Registry

NAMESPACE = "local"


def registry_of(folder: Path, *, into: Path) -> tuple[Registry, Manifest]:
    """A registry in `into` that has this version alone, and the version's manifest."""
    path = folder / manifests.NAME
    if not path.is_file():
        raise VersionNotFound(
            f"{folder}: there is no {manifests.NAME} in it; give the folder of one version, as "
            f"<registry>/<namespace>/<model>/<version>"
        )
    found = manifests.parse(path.read_bytes(), where=str(path))
    registry = Registry(url=f"file://{into.absolute()}", namespace=NAMESPACE)
    link = Path(registry.version_url(found.model, found.version).removeprefix("file://"))
    link.parent.mkdir(parents=True)
    link.symlink_to(folder.absolute(), target_is_directory=True)
    return registry, found
