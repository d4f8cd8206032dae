"""State dictionaries as tensors plus JSON: what safetensors can hold, without pickle.

`flatten` takes the tensors out of nested dictionaries, lists and tuples and leaves a reference in their place;
`restore` puts them back. Floats survive exactly (JSON writes the shortest text that reads back to the same bits).
"""

from typing import Any

import torch

_TENSOR, _TUPLE, _PAIRS = "$tensor", "$tuple", "$pairs"


def flatten(state: Any, tensors: dict[str, torch.Tensor], *, at: str = "") -> Any:
    """The JSON skeleton of `state`; its tensors are added to `tensors` under their path."""
    if isinstance(state, torch.Tensor):
        # A clone: safetensors refuses tensors that share memory, such as tied weights.
        tensors[at] = state.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: at}
    if isinstance(state, dict):
        if all(isinstance(key, str) for key in state):
            return {key: flatten(value, tensors, at=_below(at, key)) for key, value in state.items()}
        return {_PAIRS: [[flatten(key, tensors), flatten(value, tensors, at=_below(at, key))] for key, value in state.items()]}
    if isinstance(state, tuple):
        return {_TUPLE: [flatten(item, tensors, at=_below(at, i)) for i, item in enumerate(state)]}
    if isinstance(state, list):
        return [flatten(item, tensors, at=_below(at, i)) for i, item in enumerate(state)]
    if state is None or isinstance(state, bool | int | float | str):
        return state
    raise TypeError(
        f"cannot save {at!r}, a {type(state).__name__}, in a checkpoint: keep tensors, numbers and text in state_dict()"
    )


def restore(skeleton: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(skeleton, list):
        return [restore(item, tensors) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if _TENSOR in skeleton:
        return tensors[skeleton[_TENSOR]]
    if _TUPLE in skeleton:
        return tuple(restore(item, tensors) for item in skeleton[_TUPLE])
    if _PAIRS in skeleton:
        return {restore(key, tensors): restore(value, tensors) for key, value in skeleton[_PAIRS]}
    return {key: restore(value, tensors) for key, value in skeleton.items()}


def _below(at: str, key: object) -> str:
    return f"{at}.{key}" if at else str(key)
