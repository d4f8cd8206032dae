"""Finding a recipe in a folder, and forgetting the folder before."""

from pathlib import Path

import pytest

from modelmill.recipe import RecipeError, load_recipe

SOURCE = """
from modelmill import Recipe
from helper import NAME

class Mine(Recipe):
    name = NAME
"""


def written(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / "recipe.py").write_text(SOURCE)
    (folder / "helper.py").write_text(f"NAME = {name!r}\n")
    return folder


def test_a_recipe_may_import_its_own_helpers_and_gets_its_hyperparameters(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path / "a", "first"), "recipe:Mine", {"width": 3})
    assert vars(type(recipe))["name"] == "first"
    assert recipe.hyperparameters == {"width": 3}


def test_two_folders_with_the_same_module_names_do_not_mix(tmp_path: Path) -> None:
    folders = [written(tmp_path / name, name) for name in ("old", "new")]
    names = [vars(type(load_recipe(folder, "recipe:Mine", {})))["name"] for folder in (*folders, *folders)]
    assert names == ["old", "new", "old", "new"]


def test_something_that_is_no_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'NAME'; it has no subclass of modelmill\.Recipe"):
        load_recipe(written(tmp_path / "a", "x"), "helper:NAME", {})
