"""The three workloads as plain torch modules, the same for every server; `recipes` describes them to Modelmill."""

from torch import nn

from .cnn import ResNet18
from .encoder import Encoder
from .mlp import Mlp
from .plain import FirstValue

MODULES: dict[str, type[nn.Module]] = {"mlp": Mlp, "encoder": Encoder, "cnn": ResNet18, "big": FirstValue}
