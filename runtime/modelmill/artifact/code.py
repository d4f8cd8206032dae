"""The code of a version: a recipe's sources as plain files, or one exported program.

Trust, said plainly: this code runs wherever the version is evaluated or served. The digest in the manifest makes sure
that it is the code that was published, not that it is harmless.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelmill.artifact import program
from modelmill.artifact.errors import NotPublishable
from modelmill.artifact.manifest import PROGRAM, Code
from modelmill.contract.steps import Step

if TYPE_CHECKING:
    from torch import nn

    from modelmill.recipe import Recipe

FOLDER = "code"
MAX_BYTES = 64 << 20
MAX_FILES = 1000


def collect(folder: Path) -> dict[str, Path]:
    """The sources in a folder, by their path below it. Hidden and compiled files are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        # A mounted ConfigMap keeps its real files in hidden folders and links to them.
        if path.is_file() and "__pycache__" not in relative.parts and not any(part.startswith(".") for part in relative.parts):
            found[relative.as_posix()] = path
    size = sum(path.stat().st_size for path in found.values())
    if size > MAX_BYTES or len(found) > MAX_FILES:
        raise NotPublishable(
            f"the recipe's folder {folder} has {len(found)} files with {size} bytes, at most {MAX_FILES} files and {MAX_BYTES} "
            f"bytes are published: keep data and weights elsewhere"
        )
    return found


def build(
    code: Code, *, folder: Path, hyperparameters: Mapping[str, Any], steps: Sequence[Step] = ()
) -> "tuple[nn.Module, Recipe | None]":
    """The module, ready to take weights, and the recipe it is from, which a program has not.

    `folder` holds the files; `steps` made the variant that the weights are of."""
    if code.kind == PROGRAM:
        return program.build_module(program.load(folder / code.files[0])), None
    from modelmill.recipe.load import load_recipe, module_of

    recipe = load_recipe(folder / FOLDER if code.files else None, code.entrypoint or "", hyperparameters)
    return module_of(recipe, steps), recipe
