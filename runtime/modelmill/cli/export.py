"""`modelmill export`: one variant of a version, in a format that other tools read."""

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelmill.cli import options

if TYPE_CHECKING:
    from modelmill.artifact.open import OpenedVersion


class Target(StrEnum):
    dense = "dense"
    compressed_tensors = "compressed-tensors"
    onnx = "onnx"


def export(
    what: options.Version,
    out: Annotated[Path, typer.Argument(help="The file to write; for compressed-tensors a folder.", show_default=False)],
    registry: options.RegistryUrl,
    to: Annotated[Target, typer.Option(help="The format.")],
    variant: Annotated[str | None, typer.Option(help="The variant; the version's first unless named.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what the format can only hold as floats, or wider.")] = False,
    quantized: Annotated[bool, typer.Option("--quantized", help="For onnx: codes stay 8 or 4 bits in the file.")] = False,
    namespace: options.Namespace = "default",
) -> None:
    """Write a variant for other tools.

    \b
    modelmill export digits@3 digits.safetensors --to dense --variant int8
    modelmill export encoder@1 ./encoder --to compressed-tensors --strict
    modelmill export digits@3 digits.onnx --to onnx --quantized

    dense: one safetensors file, every weight decoded. compressed-tensors: model.safetensors and config.json; linear layers
    stay quantized. onnx: builds the model, which runs the version's code in this process; needs modelmill[export].
    """
    if quantized and to is not Target.onnx:
        raise typer.BadParameter(f"only onnx is written quantized or not, not {to.value}", param_hint="--quantized")
    with tempfile.TemporaryDirectory(prefix="modelmill-") as scratch:
        opened = options.open_at(what, registry=registry, namespace=namespace, variant=variant, into=Path(scratch))
        for note in _write(opened, out, to=to, strict=strict, quantized=quantized):
            typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {out} ({to.value} of {opened.manifest.model}@{opened.manifest.version}, variant {opened.variant.name})")


def _write(opened: "OpenedVersion", out: Path, *, to: Target, strict: bool, quantized: bool) -> list[str]:
    from modelmill.compress.errors import CompressionError
    from modelmill.compress.formats import compressed_tensors, dense, onnx
    from modelmill.compress.weights import read_weights

    weights = read_weights(opened.weights)
    if to is Target.dense:
        dense.export(weights.tensors, out)
        return []
    if to is Target.compressed_tensors:
        return compressed_tensors.export(weights.tensors, out, strict=strict)
    module, _ = opened.build()
    notes = onnx.export(module, weights, opened.manifest.signature, out, quantized=quantized)
    if strict and notes:
        out.unlink()
        raise CompressionError(f"onnx cannot say all of it: {'; '.join(notes)}; export without --strict")
    return notes
