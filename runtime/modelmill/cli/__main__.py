"""The `modelmill` command: models, versions and channels of a registry, serving on this machine, load.

Errors are one line on stderr and exit code 1. torch is imported by `import`, `compile`, `export` and `serve` alone, so that the
rest answers at once.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from modelmill.cli.bench import bench
from modelmill.cli.compile import compile_
from modelmill.cli.export import export
from modelmill.cli.options import Channel, Model, Namespace, Output, RegistryUrl, registry_at
from modelmill.cli.output import Format, show, size
from modelmill.cli.serve import serve
from modelmill.failures import Fault

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich would take longer than all the rest
    help="Models, versions and channels of a Modelmill registry; a server for them, and load for any server.",
)


@app.command()
def models(registry: RegistryUrl, namespace: Namespace = "default", output: Output = Format.table) -> None:
    """List the models of a namespace, with their newest version and channels."""
    store = registry_at(registry, namespace)
    rows: list[dict[str, Any]] = []
    for model in store.models():
        channels = {name: channel.version for name, channel in store.channels(model).items()}
        versions = store.versions(model)
        rows.append({"model": model, "newest": versions[-1], "versions": len(versions), "channels": channels})
    if output is Format.table:
        rows = [{**row, "channels": [f"{name}={version}" for name, version in row["channels"].items()]} for row in rows]
    show(rows, columns=("model", "newest", "versions", "channels"), output=output)


@app.command()
def versions(model: Model, registry: RegistryUrl, namespace: Namespace = "default", output: Output = Format.table) -> None:
    """List a model's versions, newest first: each variant with its size and figures, and the channels that point to it."""
    store = registry_at(registry, namespace)
    found = store.versions(model)
    if not found:
        store.read_manifest(model, 1)  # says what there is instead
    channels = store.channels(model)
    rows = [
        row
        for version in reversed(found)
        for row in _variants(store.read_manifest(model, version), [n for n, c in channels.items() if c.version == version])
    ]
    if output is Format.table:
        for row in rows:
            row["size"] = size(row["bytes"])
            row["metrics"] = [f"{name} {value:.4f}" for name, value in row["metrics"].items()]
            row["latency"] = None if row["latencyMillis"] is None else f"{row['latencyMillis']:.2f} ms"
    show(rows, columns=("version", "channels", "created", "from", "variant", "size", "metrics", "latency"), output=output)


def _variants(committed: Any, channels: list[str]) -> list[dict[str, Any]]:
    from modelmill.contract import codec

    manifest = committed.manifest
    return [
        {
            "version": manifest.version,
            "channels": channels,
            "created": manifest.created,
            "from": manifest.lineage.job or manifest.lineage.origin,
            "digest": committed.digest,
            "variant": variant.name,
            "tier": variant.tier,
            "bytes": variant.bytes,
            "metrics": variant.metrics,
            "latencyMillis": variant.latency_millis,
            "compiled": [codec.to_dict(one) for one in variant.compiled],
        }
        for variant in manifest.variants
    ]


@app.command()
def promote(
    model: Model,
    version: Annotated[int, typer.Argument(min=1, help="The version that the channel shall point to.", show_default=False)],
    registry: RegistryUrl,
    channel: Channel = "stable",
    namespace: Namespace = "default",
) -> None:
    """Point a channel to a version; services that follow the channel roll over to it."""
    store = registry_at(registry, namespace)
    before = store.channel(model, channel)
    after = store.promote(model, channel, store.read_manifest(model, version).pointer)
    _moved(model, channel, before, after)


@app.command()
def rollback(model: Model, registry: RegistryUrl, channel: Channel = "stable", namespace: Namespace = "default") -> None:
    """Point a channel back to the version before the current one; repeat to go back further."""
    store = registry_at(registry, namespace)
    before = store.channel(model, channel)
    _moved(model, channel, before, store.rollback(model, channel))


def _moved(model: str, channel: str, before: Any, after: Any) -> None:
    came_from = "" if before is None else f" (it pointed to version {before.version})"
    typer.echo(f"channel {channel} of model {model} points to version {after.version}{came_from}")


@app.command("import")
def import_(
    model: Model,
    registry: RegistryUrl,
    weights: Annotated[
        Path | None,
        typer.Option(help="A safetensors file with the module's state dict, or a folder of compressed-tensors, AWQ or GPTQ."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Folder with the recipe's sources.")] = None,
    entrypoint: Annotated[str | None, typer.Option(help="The recipe in that folder, written module:Class.")] = None,
    hyperparameters: Annotated[str, typer.Option(help="JSON object that the recipe is constructed with.")] = "{}",
    program: Annotated[Path | None, typer.Option(help="A .pt2 file, instead of weights and recipe.")] = None,
    generative: Annotated[
        Path | None, typer.Option(help="A causal language model's folder from Hugging Face, for services that run vLLM.")
    ] = None,
    channel: Annotated[str | None, typer.Option("--channel", "-c", help="Channel to point to the new version.")] = None,
    namespace: Namespace = "default",
) -> None:
    """Publish a model that was not trained here.

    Give either --weights, --recipe and --entrypoint, or --program with what torch.export.save wrote. Its code runs in
    this process, and wherever the model is served: import only what you trust. Or give --generative alone: a folder with
    config.json, tokenizer and safetensors, which must not bring code.
    """
    from modelmill.artifact.import_ import Source, import_model

    source = Source(
        weights=weights,
        recipe=recipe,
        entrypoint=entrypoint,
        hyperparameters=_object(hyperparameters),
        program=program,
        generative=generative,
    )
    committed = import_model(registry_at(registry, namespace), model, source=source, channel=channel)
    version = committed.manifest.version
    typer.echo(f"published version {version} of model {model} ({committed.digest})")
    if channel is None:
        typer.echo(f"next: modelmill promote {model} {version}")


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--hyperparameters") from error
    if not isinstance(value, dict):
        raise typer.BadParameter("not a JSON object", param_hint="--hyperparameters")
    return value


app.command("compile")(compile_)
app.command()(export)
app.command()(serve)
app.command()(bench)


def main() -> None:
    try:
        app()
    except BrokenPipeError:  # `modelmill versions ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Fault, OSError, ImportError, NotImplementedError) as error:
        sys.exit("modelmill: " + " ".join(str(error).split()))


if __name__ == "__main__":
    main()
