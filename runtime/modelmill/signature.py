"""What goes into a model and what comes out: names, datatypes and shapes, in the Open Inference Protocol's words."""

from dataclasses import dataclass

DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "BF16", "FP32", "FP64", "BYTES"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    name: str
    datatype: str = "FP32"
    shape: tuple[int, ...] = (-1,)
    """-1 is a free dimension; the first is the batch and is always free."""
    pad: int | None = None
    """For inputs with a free dimension besides the batch: serving may fill shorter rows up with this value at their end,
    so that rows of different lengths share an execution. The module must then give padded rows the answers they would
    have alone, as transformers do by their attention mask. None: only rows of equal shapes are batched."""

    def __post_init__(self) -> None:
        if self.datatype not in DATATYPES:
            raise ValueError(f"tensor {self.name!r}: datatype {self.datatype!r} is not one of {', '.join(DATATYPES)}")
        if not self.shape or self.shape[0] != -1:
            raise ValueError(f"tensor {self.name!r}: shape {list(self.shape)} must begin with -1, the batch")
        if self.pad is not None and -1 not in self.shape[1:]:
            raise ValueError(f"tensor {self.name!r}: pad {self.pad} needs a free dimension besides the batch, -1 in its shape")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
