"""Where a module has attention with separate linear layers for query, key and value, and how many heads that has.

Known by names, since a forward does not tell; whoever prunes by what is found here proves it on an example first.
"""

from dataclasses import dataclass

from torch import nn

INPUTS = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q", "k", "v"))
OUTPUTS = ("mix", "out_proj", "o_proj", "out", "proj", "output", "dense", "o")
HEADS = ("heads", "num_heads", "n_heads", "num_attention_heads")
"""Names by which attention is known: of its linear layers, and of the attribute with the number of heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    path: str
    query: str
    key: str
    value: str
    output: str
    heads: int
    attribute: str | None
    """Where the number of heads is; None where the code has it as a constant."""


def attentions(module: nn.Module, *, heads: int | None = None) -> tuple[list[Attention], dict[str, str]]:
    """Every attention with separate linear layers, and why others cannot be pruned. `heads` where the code has a constant."""
    found: list[Attention] = []
    refused: dict[str, str] = {}
    for path, owner in module.named_modules():
        inputs = next(
            (names for names in INPUTS if all(isinstance(getattr(owner, name, None), nn.Linear) for name in names)), None
        )
        if inputs is None:
            continue
        width = getattr(owner, inputs[2]).out_features
        outputs = [name for name in OUTPUTS if getattr(getattr(owner, name, None), "in_features", None) == width]
        attribute = next((name for name in HEADS if type(vars(owner).get(name)) is int), None) if heads is None else None
        count = vars(owner)[attribute] if attribute else heads
        if not outputs:
            refused[path] = f"no linear layer of {', '.join(OUTPUTS)} reads its heads"
        elif any(getattr(owner, name).out_features != width for name in inputs):
            refused[path] = "query, key and value differ in width"
        elif count is None:
            refused[path] = (
                f"no attribute of {', '.join(HEADS)} says how many heads there are; prune dimensions of its heads instead"
            )
        elif count < 1 or width % count:
            refused[path] = f"its width {width} is not a multiple of {count} heads"
        else:
            names = [f"{path}.{name}" if path else name for name in (*inputs, outputs[0])]
            query, key, value, output = names
            found.append(Attention(path=path, query=query, key=key, value=value, output=output, heads=count, attribute=attribute))
    return found, refused
