"""Makes the variants that are compared, by the steps a TrainingJob would name: `python -m benchmarks.compression.variants`.

Fine-tuning takes long (`fine_tune`), so its result is kept in `kept/`, named after its digest; `--again` makes it anew.
"""

import argparse
import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.compression import data
from benchmarks.compression.workloads import Workload
from modelmill.compress.apply import load_variant
from modelmill.compress.draft import Batch, Context
from modelmill.compress.pipeline import compress
from modelmill.compress.weights import read_weights, write_weights
from modelmill.contract.steps import Distill, Prune, Quantize, Step, Training
from modelmill.recipe.base import Recipe

KEPT = Path(__file__).parent / "kept"
FINE_TUNED, BEST = "resnet56-structured", "resnet56-best"
INT8 = Step(quantize=Quantize())
SEVEN = Step(quantize=Quantize(bits=7))
"""Codes of 7 bits in int8, which linear layers add in 16 bits where there is no VNNI; other libraries call it reduced range."""
INT4 = Step(quantize=Quantize(method="NormalFloat", bits=4, granularity="Group", group_size=32))
FINE_TUNING = (
    (
        Step(prune=Prune(method="Channels", sparsity=1 - 1 / 2.12)),
        Step(
            distill=Distill(
                method="Features",
                weight=100.0,
                training=Training(epochs=9, lr=0.03, batch_size=64, teacher=0.9, temperature=4.0),
            )
        ),
    ),
    (Step(distill=Distill(training=Training(epochs=2, lr=0.00015, batch_size=64, optimizer="AdamW", teacher=0.9))),),
)
"""Two plans: the second begins with the first one's file, whose batch norms are folded."""
PLANS = {
    "resnet20-int8": (INT8,),
    "resnet56-int8": (INT8,),
    FINE_TUNED: (),
    BEST: (INT8,),
    "minilm-int8": (SEVEN,),
    "minilm-int4": (INT4,),
}
BORDER = 4


class Cifar:
    """The training images, cropped from a border of zeros and mirrored by chance; 5,000 of them are only looked at."""

    def __init__(self) -> None:
        self._images, self._labels = data.training_images()

    def rows(self) -> int:
        return len(self._images)

    def batches(self, *, epoch: int, batch_size: int) -> Iterable[Batch]:
        generator = torch.Generator().manual_seed(epoch)
        for numbers in torch.randperm(self.rows(), generator=generator).split(batch_size):
            yield data.normalised(_moved(self._images[numbers], generator)), self._labels[numbers]

    def calibration(self, *, rows: int) -> list[Batch]:
        images, labels = self._images[:rows].split(32), self._labels[:rows].split(32)
        return [(data.normalised(part), targets) for part, targets in zip(images, labels, strict=True)]


def _moved(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """uint8 [N, 3, 32, 32]"""
    count, _, size, _ = images.shape
    padded = functional.pad(images, (BORDER, BORDER, BORDER, BORDER))
    top, left = (torch.randint(2 * BORDER + 1, (count, 1), generator=generator) for _ in range(2))
    mirrored = torch.rand((count, 1), generator=generator) < 0.5
    places = torch.arange(size)
    columns = left + torch.where(mirrored, size - 1 - places, places)
    rows = top + places
    moved: torch.Tensor = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def context(teacher: nn.Module) -> Context:
    return Context(recipe=Recipe({}), material=Cifar(), teacher=teacher)


def make(name: str, folder: Path) -> Path:
    """The variant's file, by its steps; those with fewer channels begin with the kept result."""
    module = Workload(name.partition("-")[0]).module()
    structure: tuple[dict[str, Any], ...] = ()
    if name in (FINE_TUNED, BEST):
        structure = tuple(read_weights(kept()).structure)
        module = load_variant(module, kept())
    made = compress(module, PLANS[name], context(module) if name.startswith("resnet") else None)
    target = folder / f"{name}.safetensors"
    write_weights(target, made.weights, structure=(*structure, *made.structure))
    return target


def fine_tune() -> Path:
    """41.8 minutes of a Zen 5 core; a Zen 3 core needed 12 an epoch, so over two hours. What was kept before goes."""
    torch.set_num_threads(1)
    teacher, began = Workload("resnet56").module(), time.process_time()
    KEPT.mkdir(exist_ok=True)
    fresh, module, structure = KEPT / "fresh.safetensors", teacher, list[dict[str, Any]]()
    for steps in FINE_TUNING:
        made = compress(module, steps, context(teacher))
        structure += made.structure
        write_weights(fresh, made.weights, structure=structure)
        print("\n".join((*made.notes, f"took {(time.process_time() - began) / 60:.1f} minutes of the processor")), flush=True)
        module = load_variant(Workload("resnet56").module(), fresh)
    for old in KEPT.glob(f"{FINE_TUNED}-*.safetensors"):
        old.unlink()
    return fresh.rename(KEPT / f"{FINE_TUNED}-{digest(fresh)}.safetensors")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def kept() -> Path:
    """The fine-tuned weights, whose digest is their name."""
    found = sorted(KEPT.glob(f"{FINE_TUNED}-*.safetensors"))
    if len(found) != 1:
        raise SystemExit(f"{KEPT} has {len(found)} files of {FINE_TUNED}: make it with --again")
    if not found[0].stem.endswith(f"-{digest(found[0])}"):
        raise SystemExit(f"{found[0].name} has the digest {digest(found[0])}: it is not what was kept")
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the variants are written")
    parser.add_argument("--again", action="store_true", help="fine-tune again")
    parser.add_argument("--models", nargs="*", default=(), help="only theirs")
    arguments = parser.parse_args()
    if arguments.again:
        print(fine_tune())
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in PLANS:
        if arguments.models and name.partition("-")[0] not in arguments.models:
            continue
        print(make(name, arguments.folder), flush=True)


if __name__ == "__main__":
    main()
