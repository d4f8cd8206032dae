"""Options that several commands share, and what they open."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelmill.cli.output import Format

if TYPE_CHECKING:
    from modelmill.artifact.open import OpenedVersion
    from modelmill.artifact.registry import Registry

REGISTRY_VARIABLE = "MODELMILL_REGISTRY"
REGISTRY_HELP = "URL of the registry: s3://bucket/prefix (credentials in AWS_* variables), file:///path, or a folder."
RegistryUrl = Annotated[str, typer.Option("--registry", envvar=REGISTRY_VARIABLE, help=REGISTRY_HELP)]
Namespace = Annotated[
    str, typer.Option("--namespace", "-n", envvar="MODELMILL_NAMESPACE", help="Kubernetes namespace that the models belong to.")
]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print.")]
Model = Annotated[str, typer.Argument(help="Name of the model.", show_default=False)]
Version = Annotated[
    str, typer.Argument(metavar="MODEL@VERSION", help="A model's name and the version's number.", show_default=False)
]
Channel = Annotated[str, typer.Option("--channel", "-c", help="Name of the channel.")]


def registry_url(given: str) -> str:
    return given if "://" in given else f"file://{Path(given).absolute()}"


def registry_at(url: str, namespace: str) -> "Registry":
    from modelmill.artifact.registry import Registry

    return Registry(url=registry_url(url), namespace=namespace)


def open_at(what: str, *, registry: str, namespace: str, variant: str | None, into: Path) -> "OpenedVersion":
    """The version that `what`, MODEL@VERSION, names, in the folder `into`."""
    from modelmill.artifact.open import open_version

    model, _, number = what.rpartition("@")
    if not model or not number.isdecimal():
        raise typer.BadParameter(
            f"{what!r} must be a model's name, @, and a version's number, as in digits@3", param_hint="MODEL@VERSION"
        )
    found = registry_at(registry, namespace).read_manifest(model, int(number))
    return open_version(
        registry_url(registry),
        namespace=namespace,
        model=model,
        version=int(number),
        digest=found.digest,
        variant=variant or found.manifest.variants[0].name,
        into=into,
    )
