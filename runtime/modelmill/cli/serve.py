"""`modelmill serve`: the server of a pod, on this machine, for a model of a registry or for one version's folder."""

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelmill.cli import options
from modelmill.failures import Fault

if TYPE_CHECKING:
    from modelmill.contract.servicefile import ServiceFile


class NoModel(Fault):
    """It is not said, or not clearly, what to serve."""

    reason = "NoModel"


def serve(
    what: Annotated[str, typer.Argument(metavar="MODEL|PATH", help="A model's name, or a version's folder.", show_default=False)],
    registry: Annotated[
        str | None, typer.Option("--registry", envvar=options.REGISTRY_VARIABLE, help=options.REGISTRY_HELP, show_default=False)
    ] = None,
    namespace: options.Namespace = "default",
    channel: options.Channel = "stable",
    version: Annotated[int | None, typer.Option(min=1, help="The version to serve, instead of the channel's.")] = None,
    variant: Annotated[str | None, typer.Option(help="The variant to serve; the version's first unless named.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65534, help="Port of the protocols; metrics are on the next one.")] = 8080,
) -> None:
    """Serve a model on this machine, as a pod would, until Ctrl-C.

    \b
    modelmill serve digits --registry ./models
    modelmill serve digits --registry s3://bucket/models --version 3 --variant int8
    modelmill serve ./models/default/digits/3

    A version's code runs in this process: serve only what you trust.
    """
    with tempfile.TemporaryDirectory(prefix="modelmill-") as scratch:
        if _is_path(what):
            if version is not None:
                raise typer.BadParameter(f"the folder {what} is one version already", param_hint="--version")
            file = of_folder(Path(what), variant=variant, port=port, scratch=Path(scratch))
        else:
            file = of_registry(
                registry, namespace=namespace, model=what, channel=channel, version=version, variant=variant, port=port
            )
        code = _serve(file)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not an ordinary end: a thread that still computes (a hung model) would crash it.
    os._exit(code)


def _is_path(what: str) -> bool:
    """A name of a model has no slash; a folder without one is told by what it holds."""
    return "/" in what or what in (".", "..") or Path(what, "manifest.json").is_file()


def of_registry(
    registry: str | None,
    *,
    namespace: str,
    model: str,
    channel: str,
    version: int | None,
    variant: str | None,
    port: int,
) -> "ServiceFile":
    """What the operator would have resolved. Raises a Fault that says what there is."""
    from modelmill.serve.local import service_file

    if registry is None:
        raise NoModel(
            f"which registry has the model {model!r}? Give --registry or {options.REGISTRY_VARIABLE}; to serve a version's "
            f"folder, write its path as ./{model}"
        )
    return service_file(
        registry=options.registry_url(registry),
        namespace=namespace,
        model=model,
        channel=channel,
        version=version,
        variant=variant,
        port=port,
    )


def of_folder(folder: Path, *, variant: str | None, port: int, scratch: Path) -> "ServiceFile":
    """The one version in `folder`; `scratch` must live as long as it is served."""
    from modelmill.artifact.folder import registry_of
    from modelmill.serve.local import service_file

    registry, found = registry_of(folder, into=scratch)
    return service_file(
        registry=registry.url,
        namespace=registry.namespace,
        model=found.model,
        channel="",
        version=found.version,
        variant=variant,
        port=port,
    )


def _serve(file: "ServiceFile") -> int:
    import uvloop

    from modelmill import failures
    from modelmill.observe import logs
    from modelmill.serve.__main__ import serve as serve_until_stopped

    logs.configure()
    path = "/v1/chat/completions" if file.engine else f"/v2/models/{file.model}"
    typer.echo(
        f"{file.model} version {file.version} ({file.variant}): http://localhost:{file.port}{path}, "
        f"metrics on port {file.admin_port}; Ctrl-C stops",
        err=True,
    )
    try:
        uvloop.run(serve_until_stopped(file, hosts=("127.0.0.1",), propagation_seconds=0.0))
    except Exception as error:
        typer.echo("modelmill: " + failures.describe(error).message.splitlines()[0], err=True)
        return 1
    return 0
