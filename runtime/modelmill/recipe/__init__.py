"""What a user writes to train, compress, evaluate and serve a model: one class with the few things that differ."""

from modelmill.recipe.base import Recipe
from modelmill.signature import Signature, Tensor

__all__ = ["Recipe", "Signature", "Tensor"]
