"""Modelmill's runtime: what users import in a recipe, and what runs in pods. Importing it costs nothing heavy."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelmill.recipe import BadInput, Recipe, Signature, Tensor

__all__ = ["BadInput", "Recipe", "Signature", "Tensor"]


def __getattr__(name: str) -> Any:
    # Lazy, so that the operator and the shell commands can import `modelmill.contract` without torch.
    if name in __all__:
        from modelmill import recipe

        return getattr(recipe, name)
    raise AttributeError(f"module 'modelmill' has no attribute {name!r}")
