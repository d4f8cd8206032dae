"""The workloads as Modelmill's recipes: what `modelmill import` publishes and our server serves."""

from torch import nn

from modelmill import Recipe, Signature, Tensor

from . import MODULES


class Mlp(Recipe):
    def model(self) -> nn.Module:
        return MODULES["mlp"]()

    def signature(self) -> Signature:
        return Signature(inputs=(Tensor(name="x", shape=(-1, 64)),), outputs=(Tensor(name="y", shape=(-1, 10)),))


class Encoder(Recipe):
    def model(self) -> nn.Module:
        return MODULES["encoder"]()

    def signature(self) -> Signature:
        names = ("input_ids", "attention_mask")
        return Signature(
            inputs=tuple(Tensor(name=name, datatype="INT64", shape=(-1, -1), pad=0) for name in names),
            outputs=(Tensor(name="embedding", shape=(-1, 384)),),
        )


class Cnn(Recipe):
    def model(self) -> nn.Module:
        return MODULES["cnn"]()

    def signature(self) -> Signature:
        return Signature(
            inputs=(Tensor(name="image", shape=(-1, 3, 64, 64)),), outputs=(Tensor(name="logits", shape=(-1, 1000)),)
        )


class Big(Recipe):
    def model(self) -> nn.Module:
        return MODULES["big"]()

    def signature(self) -> Signature:
        return Signature(inputs=(Tensor(name="x", shape=(-1, 3, -1, -1)),), outputs=(Tensor(name="y", shape=(-1, 1)),))
