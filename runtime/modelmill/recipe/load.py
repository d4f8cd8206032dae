"""Finds the recipe that `spec.recipe` names: a folder of sources and an entrypoint `module:Class`.

The folder is put first on the import path, as Python does for a script, so a recipe may import its own helpers.
Modules of a folder loaded earlier in the same process are forgotten: two versions of one model share module names.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from modelmill.contract.steps import Step
from modelmill.recipe.base import Recipe, RecipeError

PROCESSING = ("service_signature", "preprocess", "postprocess")
_folders: list[Path] = []


def load_recipe(path: Path | str | None, entrypoint: str, hyperparameters: Mapping[str, Any]) -> Recipe:
    """The recipe, constructed. `path` None means that the entrypoint is installed in the image."""
    module_name, separator, class_name = entrypoint.partition(":")
    if not (separator and module_name and class_name):
        raise RecipeError(f"recipe.entrypoint: {entrypoint!r} must be written module:Class, for example recipe:Digits")
    if path is not None:
        _use_folder(Path(path).absolute())
    # An ImportError or SyntaxError goes through as it is: its own words are the best.
    module = importlib.import_module(module_name)
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Recipe)):
        classes = [name for name, value in vars(module).items() if _is_recipe(value)]
        there = f"it has {', '.join(classes)}" if classes else "it has no subclass of modelmill.Recipe"
        raise RecipeError(f"recipe.entrypoint: module {module_name!r} has no recipe {class_name!r}; {there}")
    return found(hyperparameters)


def module_of(recipe: Recipe, steps: Sequence[Step]) -> nn.Module:
    """The module that a variant made by these steps has its weights for: student() where it began with migrate, else model()."""
    return recipe.student() if any(step.migrate is not None for step in steps) else recipe.model()


def processes(recipe: Recipe) -> bool:
    """Whether it has steps of its own before or after the module."""
    return any(getattr(type(recipe), name) is not getattr(Recipe, name) for name in PROCESSING)


def _is_recipe(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Recipe) and value is not Recipe


def _use_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise RecipeError(f"recipe: the folder {folder} is not there; check spec.recipe")
    while _folders:
        _forget(_folders.pop())
    _folders.append(folder)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


def _forget(folder: Path) -> None:
    while str(folder) in sys.path:
        sys.path.remove(str(folder))
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if origin and origin.startswith(f"{folder}/"):
            del sys.modules[name]
