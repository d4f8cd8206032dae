"""Compiles a module by torch.export and AOTInductor to a shared library without weights.

One thread within it: where a loop runs in several, an index that is out of range (a client's token) would end the process,
not the request. Products of matrices and convolutions are torch's own and use the threads that there are.
"""

import io
import os
import shutil
import zipfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelmill.artifact.compiled import Compiled
from modelmill.compress.formats.exported import example, free_dimensions, in_order, quiet
from modelmill.compress.modules import Compressed
from modelmill.failures import Fault
from modelmill.recipe.check import TORCH
from modelmill.serve.compiled import machine
from modelmill.serve.compiled.candidate import release
from modelmill.serve.compiled.free import dimensions_of
from modelmill.serve.compiled.library import digest_of, tensors_of
from modelmill.serve.compiled.machine import Level
from modelmill.serve.optimize.graphs import state_of
from modelmill.signature import Signature

LIBRARY = "compiled.so"
MAX_REASON_CHARACTERS = 400
_MARCH = {Level.avx2: "x86-64-v3", Level.avx512: "x86-64-v4"}
_BITS = {Level.avx2: 256, Level.avx512: 512}


class CannotCompile(Fault):
    """There is nothing that could be published."""

    reason = "CannotCompile"


def compile_module(module: nn.Module, signature: Signature, *, level: Level, scratch: Path) -> tuple[Path, Compiled]:
    """The library, in `scratch`, and what is known of it; `file` and `measured` are not. Takes seconds to minutes.

    `module` is as `load_variant` leaves it. Raises CannotCompile, which says what to do.
    """
    _check_module(module)
    _check_signature(signature)
    require_compiler()
    program = _exported(module, signature)
    dimensions, limits = dimensions_of(program)
    library = scratch / LIBRARY
    with quiet("torch"):
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        options = {
            "cpp.threads": 1,
            "cpp.simdlen": _BITS[level],
            "cpp.march": _MARCH[level],
            "aot_inductor.package_constants_in_so": False,
            "aot_inductor.precompile_headers": False,  # it takes longer than it saves for one module
            "aot_inductor.enable_line_tables": False,
        }
        _compile(program, options, library)
        with torch._inductor.config.patch("cpp.simdlen", _BITS[level]):
            flags = pick_vec_isa().build_arch_flags().split()
    needed = machine.NEEDED[level] | {machine.plain(flag.removeprefix("-m")) for flag in flags}
    return library, Compiled(
        file=LIBRARY,
        torch=release(),
        instructions=tuple(sorted(needed)),
        tensors=digest_of(tensors_of(module)),
        dimensions=dimensions,
        limits=limits,
    )


def level_here(wanted: Level | None) -> Level:
    """The wanted one, or the most capable, if this machine has it. Raises CannotCompile."""
    found = machine.levels()
    if not found or wanted not in (None, *found):
        has = ", ".join(found) or "neither avx2 nor avx512 of x86-64"
        raise CannotCompile(f"what is compiled is tried and measured too, and this machine's processor has {has}: use another")
    return wanted or found[0]


def require_compiler() -> None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise CannotCompile(
            f"there is no C++ compiler {compiler!r} here: install g++, or name one in CXX. Pods that serve need none"
        )
    headers = Path(torch.__file__).parent / "include"
    if not headers.is_dir():
        raise CannotCompile(
            f"torch has no headers here ({headers}), as in the runtime image: compile where pip installed torch {release()}"
        )


def _check_module(module: nn.Module) -> None:
    compressed = [path for path, layer in module.named_modules() if isinstance(layer, Compressed)]
    if compressed:
        raise CannotCompile(
            f"{len(compressed)} layers ({compressed[0] or 'the model'}, ...) compute with compressed weights in functions of "
            f"Modelmill, which torch.export cannot see through: name a variant without codes in --variant, such as dense"
        )


def _check_signature(signature: Signature) -> None:
    for tensor in signature.inputs:
        if tensor.datatype not in TORCH:
            raise CannotCompile(f"input {tensor.name!r} is {tensor.datatype}, which no module computes on")


def _exported(module: nn.Module, signature: Signature) -> Any:
    inputs = example(signature)
    try:
        changed = _changed_numbers(module, inputs)
        # What fails is printed there, a whole graph of it.
        with quiet("torch"), redirect_stderr(io.StringIO()):
            program = torch.export.export(in_order(module, signature), inputs, dynamic_shapes=free_dimensions(signature))
    except Exception as error:  # torch raises whatever its tracer meets
        raise CannotCompile(f"torch.export cannot follow the module's forward: {shortened(error)}") from error
    if changed := changed or _changed(program):
        raise CannotCompile(f"the module's forward changes {changed[0]!r}: only what leaves the module alone can be compiled")
    return program


@torch.no_grad()
def _changed_numbers(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[str]:
    """Attributes that are no tensors, such as a counter; torch.export would leave them as they are, without a word."""
    before = state_of(module)
    module(*inputs)
    return sorted(f"{path}.{name}".lstrip(".") for (path, name), _ in before.items() ^ state_of(module).items())


def _changed(program: Any) -> list[str]:
    """Weights and inputs that the forward writes to; only the functional form of a program tells."""
    with quiet("torch"):
        found = program.run_decompositions({}).graph_signature
    return [*found.buffers_to_mutate.values(), *found.user_inputs_to_mutate.values()]


def _compile(program: Any, options: dict[str, Any], library: Path) -> None:
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    package = library.with_suffix(".pt2")
    try:
        with fresh_cache(dir=str(library.parent)):
            aoti_compile_and_package(program, package_path=str(package), inductor_configs=options)
    except Exception as error:
        raise CannotCompile(f"AOTInductor of torch {release()} cannot compile the module: {shortened(error)}") from error
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
        if any(name.endswith(("wrapper.json", "custom_objs_config.json")) for name in names):
            raise CannotCompile("the module calls operators that are no part of torch: they cannot be called from machine code")
        (name,) = (name for name in names if name.endswith(".so"))
        library.write_bytes(archive.read(name))
    package.unlink()


def shortened(error: Exception) -> str:
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return f"{type(error).__name__}: {text}"[:MAX_REASON_CHARACTERS]
