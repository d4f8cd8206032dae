"""Variants from step to file to answers, on problems that train in a fraction of a second. Not: each method's own rules."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from modelmill.compress.apply import load_variant
from modelmill.compress.codecs.blocks import BlockWeight
from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.codecs.signs import SignWeight
from modelmill.compress.codecs.sparse import SparseWeight
from modelmill.compress.encode import Compressed
from modelmill.compress.errors import CompressionError
from modelmill.compress.pipeline import compress
from modelmill.compress.structure import apply_edits, from_json
from modelmill.compress.weights import Plain, write_weights
from modelmill.contract.steps import Distill, LowRank, Migrate, Prune, Quantize, Share, Step, Training
from modelmill.recipe.load import module_of
from tests.compression.methods.taught import Rows, Task, blobs, context, dense_of, mlp, right

SHORT = Training(epochs=2, lr=0.05, batch_size=64)
INT8 = Step(quantize=Quantize())
HIDDEN = 32


class Student(Task):
    def model(self) -> nn.Module:
        return mlp(hidden=HIDDEN)

    def student(self) -> nn.Module:
        return mlp(hidden=HIDDEN // 2)


@pytest.fixture(scope="module")
def material() -> Rows:
    return blobs()


@pytest.fixture(scope="module")
def teacher(material: Rows) -> nn.Module:
    module = mlp(hidden=HIDDEN)
    alone = Step(tune=Training(epochs=6, lr=0.1, batch_size=64, teacher=0.0))
    made = compress(module, (alone,), context(material, teacher=module))
    module.load_state_dict({name: dense_of(weight) for name, weight in made.weights.items()})
    assert right(module, material) > 0.9
    return module.requires_grad_(False)


def made_and_loaded(steps: Sequence[Step], teacher: nn.Module, material: Rows, folder: Path) -> tuple[Compressed, nn.Module]:
    made = compress(teacher, steps, context(material, teacher=teacher, recipe=Student()))
    write_weights(folder / "v.safetensors", made.weights, structure=made.structure)
    return made, load_variant(module_of(Student(), steps), folder / "v.safetensors")


def prune(method: str, *, sparsity: float = 0.5, pattern: str = "Unstructured", training: Training | None = None) -> Step:
    return Step(prune=Prune(method=method, sparsity=sparsity, pattern=pattern, training=training))


def quantize(method: str, *, bits: int | None = None, modulus: int | None = None, training: Training | None = None) -> Step:
    return Step(quantize=Quantize(method=method, bits=bits, modulus=modulus, training=training))


PLANS: dict[str, tuple[Step, ...]] = {
    "magnitude": (prune("Magnitude"),),
    "gradient": (prune("Gradient"),),
    "wanda": (prune("Wanda"),),
    "blocks": (prune("Magnitude", pattern="16x1"),),
    "small blocks by gradient, int8": (prune("Gradient", pattern="4x1"), INT8),
    "2:4 by wanda, trained": (prune("Wanda", pattern="2:4", training=SHORT), INT8),
    "a learned mask": (prune("LearnedMask", training=SHORT),),
    "learned blocks": (prune("LearnedMask", pattern="4x1", training=SHORT),),
    "adagrad, then int8": (prune("AdaGrad", training=SHORT), INT8),
    "channels, distilled, int8": (prune("Channels"), Step(distill=Distill(training=SHORT)), INT8),
    "low rank, then 4 bits": (Step(low_rank=LowRank(max_error=0.5)), quantize("Uniform", bits=4)),
    "migrated and distilled": (Step(migrate=Migrate(method="Average")), Step(distill=Distill(training=SHORT))),
    "adversarial": (prune("Magnitude"), Step(distill=Distill(method="Adversarial", training=SHORT))),
    "simulated": (prune("Magnitude"), Step(distill=Distill(method="Simulated", training=SHORT, data_sets=1))),
    "features": (prune("Magnitude"), Step(distill=Distill(method="Features", training=SHORT))),
    "fixed point": (quantize("FixedPoint"),),
    "residues": (quantize("Residue", modulus=255),),
    "dynamic range": (quantize("DynamicRange"),),
    "normal float": (quantize("NormalFloat"),),
    "k-means of pruned weights": (prune("Magnitude"), quantize("KMeans")),
    "steps": (quantize("Steps"),),
    "ternary, trained": (quantize("Ternary", training=SHORT),),
    "binary, trained": (quantize("Binary", training=SHORT),),
    "signs of weights and activations, trained": (quantize("XNOR", training=Training(epochs=8, lr=0.05, batch_size=64)),),
    "static activations": (Step(quantize=Quantize(activations="Static", clipping="MSE")),),
    "int8, shared": (INT8, Step(share=Share(clusters=16))),
    "shared and trained": (Step(share=Share(clusters=8, training=SHORT)),),
    "pruned, distilled, int8, shared": (
        prune("Magnitude"),
        Step(distill=Distill(training=SHORT)),
        INT8,
        Step(share=Share(clusters=16)),
    ),
}


@pytest.mark.parametrize("steps", PLANS.values(), ids=PLANS.keys())
def test_a_variant_answers_as_its_decoded_weights_do(
    steps: tuple[Step, ...], teacher: nn.Module, material: Rows, tmp_path: Path
) -> None:
    made, loaded = made_and_loaded(steps, teacher, material, tmp_path)
    decoded = apply_edits(module_of(Student(), steps), from_json(made.structure))
    decoded.load_state_dict({name: dense_of(weight) for name, weight in made.weights.items()})
    with torch.inference_mode():
        found, wanted = loaded(material.inputs), decoded.eval()(material.inputs)
    if not any(isinstance(weight, SignWeight) for weight in made.weights.values()):
        assert float((found - wanted).norm() / wanted.norm()) < 0.03, "int8 activations"
    assert right(loaded, material) > (0.5 if "blocks" in str(steps) else 0.7)


def test_the_same_steps_give_the_same_bytes(teacher: nn.Module, material: Rows, tmp_path: Path) -> None:
    steps = PLANS["pruned, distilled, int8, shared"]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made_and_loaded(steps, teacher, material, tmp_path / name)
    assert (tmp_path / "one/v.safetensors").read_bytes() == (tmp_path / "two/v.safetensors").read_bytes()


def test_zeros_of_a_mask_survive_training_and_rounding(teacher: nn.Module, material: Rows, tmp_path: Path) -> None:
    kept = compress(teacher, (prune("Magnitude"),), context(material, teacher=teacher)).sparsity
    made = compress(teacher, PLANS["pruned, distilled, int8, shared"], context(material, teacher=teacher))
    assert made.sparsity >= kept == pytest.approx(0.5, abs=0.01)


def test_each_pattern_has_its_codec(teacher: nn.Module, material: Rows, tmp_path: Path) -> None:
    for name, codec in (
        ("blocks", BlockWeight),
        ("2:4 by wanda, trained", SparseWeight),
        ("wanda", SparseWeight),
        ("k-means of pruned weights", CodedWeight),
    ):
        made, _ = made_and_loaded(PLANS[name], teacher, material, tmp_path)
        assert {type(weight) for weight in made.weights.values()} == {codec, Plain}, name


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, None]
        parts = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen = nn.functional.scaled_dot_product_attention(*parts)
        answer: torch.Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))[:, 0]
        return answer


def test_heads_are_removed_and_the_file_says_how_many_are_left(material: Rows, tmp_path: Path) -> None:
    module = Attending().eval()
    made = compress(module, (prune("Heads", sparsity=0.5), INT8), context(material, teacher=module))
    write_weights(tmp_path / "v.safetensors", made.weights, structure=made.structure)
    loaded = load_variant(Attending(), tmp_path / "v.safetensors")
    assert loaded.num_heads == 2
    assert dense_of(made.weights["q_proj.weight"]).shape == (4, 8)
    assert loaded(material.inputs).shape == (len(material.inputs), 8)


def test_a_step_that_needs_data_says_so_where_there_is_none(teacher: nn.Module) -> None:
    with pytest.raises(CompressionError, match="prune with Wanda needs training data"):
        compress(teacher, (prune("Wanda"),))
