"""What a user writes to train, compress, evaluate and serve a model: one class with the few things that differ."""

from modelmill.failures import BadInput
from modelmill.recipe.base import Recipe, RecipeError
from modelmill.recipe.load import load_recipe
from modelmill.signature import Signature, Tensor

__all__ = ["BadInput", "Recipe", "RecipeError", "Signature", "Tensor", "load_recipe"]
