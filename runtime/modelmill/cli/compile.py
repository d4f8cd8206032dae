"""`modelmill compile`: a version again, with machine code of one of its variants for machines like this one."""

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelmill.cli import options
from modelmill.failures import Fault
from modelmill.serve.compiled.machine import Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelmill.artifact.compiled import Compiled, Measured
    from modelmill.artifact.open import OpenedVersion

ROWS = (1, 8, 32)
LENGTH = 16


class NotWorthIt(Fault):
    """The compiled module is wrong, or not faster than what the server runs without it."""

    reason = "NotWorthIt"


def compile_(
    what: options.Version,
    registry: options.RegistryUrl,
    variant: Annotated[str | None, typer.Option(help="The variant; the version's first unless named.")] = None,
    rows: Annotated[
        list[int] | None, typer.Option(min=1, help="Rows to measure, and later warm up, with; may be repeated (1, 8, 32).")
    ] = None,
    length: Annotated[int, typer.Option(min=2, help="Size of the inputs' free dimensions other than the rows.")] = LENGTH,
    instructions: Annotated[
        Level | None, typer.Option(help="That the pods' processors have; unless named, the most that this one has.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Publish although it is not faster here.")] = False,
    channel: Annotated[str | None, typer.Option("--channel", "-c", help="Channel to point to the new version.")] = None,
    namespace: options.Namespace = "default",
) -> None:
    """Compile a variant for processors like this machine's, and publish it as the next version if that makes it faster.

    \b
    modelmill compile digits@3
    modelmill compile encoder@1 --variant dense --rows 1 --rows 16 --length 64
    modelmill compile digits@3 --instructions avx2 --channel stable

    Needs a C++ compiler, g++ or CXX. Builds the model, which runs the version's code in this process. Pods whose torch or
    processor is another, or that find the compiled module slower, serve as without it.
    """
    shapes = [(count, length) for count in rows or ROWS]
    with tempfile.TemporaryDirectory(prefix="modelmill-") as scratch:
        opened = options.open_at(what, registry=registry, namespace=namespace, variant=variant, into=Path(scratch))
        level, library, compiled = _compiled(opened, instructions, shapes=shapes)
        told = "; ".join(map(_told, compiled.measured))
        if not force:
            _require_faster(compiled.measured, told)
        from modelmill.artifact.amend import publish_compiled

        store = options.registry_at(registry, namespace)
        published = publish_compiled(store, opened.manifest, variant=opened.variant.name, compiled=compiled, library=library)
        if channel is not None:
            store.promote(opened.manifest.model, channel, published.pointer)
    model, version = opened.manifest.model, published.manifest.version
    typer.echo(f"compiled {what}, variant {opened.variant.name}, for torch {compiled.torch} and {level}: {told}")
    typer.echo(f"published version {version} of model {model} ({published.digest})")
    if channel is None:
        typer.echo(f"next: modelmill promote {model} {version}")


def _compiled(
    opened: "OpenedVersion", wanted: Level | None, *, shapes: "Sequence[tuple[int, int]]"
) -> "tuple[Level, Path, Compiled]":
    """The library, proven and measured."""
    from modelmill.serve import memory

    memory.keep()  # as the server does, or modules are measured that wait for memory
    from modelmill.compress.apply import load_variant
    from modelmill.compress.formats.exported import example
    from modelmill.serve.blank import blank_weights
    from modelmill.serve.compiled import build, measure
    from modelmill.serve.compiled.module import CompiledModule
    from modelmill.serve.optimize.apply import optimize

    level, signature = build.level_here(wanted), opened.manifest.signature
    with blank_weights():
        plain, _ = opened.build()
    plain = load_variant(plain, opened.weights)
    measure.check(plain, signature=signature, shapes=shapes)
    library, compiled = build.compile_module(plain, signature, level=level, scratch=opened.folder)
    module = CompiledModule(library, compiled, plain=plain, signature=signature, instances=1)
    lengths = {length for _, length in shapes}
    tried = [*shapes, *((rows, length) for rows in (1, 2, 3) for length in (1, *lengths))]
    if reason := measure.wrong(module, plain, signature=signature, shapes=tried):
        raise NotWorthIt(f"what torch {compiled.torch} has compiled cannot be served, {reason}; nothing is published")
    served = optimize(plain, example=example(signature, rows=2)).module
    found = measure.measured(module, served, signature=signature, shapes=shapes)
    return level, library, dataclasses.replace(compiled, measured=found)


def _require_faster(found: "Sequence[Measured]", told: str) -> None:
    from modelmill.serve.compiled.measure import is_faster

    if not is_faster(found):
        raise NotWorthIt(
            f"the compiled module is not faster than what the server runs without it ({told}): nothing is "
            f"published; --force publishes it"
        )


def _told(one: "Measured") -> str:
    rows = f"{one.rows} row{'s' if one.rows > 1 else ''}"
    return f"{rows} {one.millis:.3f} ms instead of {one.served_millis:.3f}"
