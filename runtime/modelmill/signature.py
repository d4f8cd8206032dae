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

    def __post_init__(self) -> None:
        if self.datatype not in DATATYPES:
            raise ValueError(f"tensor {self.name!r}: datatype {self.datatype!r} is not one of {', '.join(DATATYPES)}")
        if not self.shape or self.shape[0] != -1:
            raise ValueError(f"tensor {self.name!r}: shape {list(self.shape)} must begin with -1, the batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
