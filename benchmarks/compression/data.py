"""What the models are shown: CIFAR-10 decoded once, and the sentences of this repository's own documents.

Decoded images are kept in the benchmarks' cache, named after the digest of the file they came from.
"""

import hashlib
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from benchmarks.compression.models import data_folder
from benchmarks.serving.venvs import cache, encoder_weights
from examples.cifar10.recipe import MEAN, STD, Images

ROOT = Path(__file__).parents[2]
CALIBRATION_IMAGES = 512
SENTENCES, TOKENS = 200, 32
LEAST_WORDS = 6


def test_set() -> tuple[torch.Tensor, torch.Tensor]:
    """All 10,000 test images, normalised, float32 [N, 3, 32, 32], and their labels int64 [N]."""
    return _images("test", limit=None)


def training_images() -> tuple[torch.Tensor, torch.Tensor]:
    """All 50,000 training images as bytes, uint8 [N, 3, 32, 32], and their labels int64 [N]."""
    source = data_folder() / "cifar10/train.parquet"
    kept = cache() / f"cifar10-train-bytes-{_digest(source)}.safetensors"
    if not kept.exists():
        images = Images(str(source), augment=False)
        rows = [images[index] for index in range(len(images))]
        pixels = torch.stack([(image * 255).round().to(torch.uint8) for image, _ in rows])
        _save({"images": pixels, "labels": torch.stack([label for _, label in rows])}, kept)
    found = load_file(kept)
    return found["images"], found["labels"]


def normalised(images: torch.Tensor) -> torch.Tensor:
    """uint8 [N, 3, 32, 32] as the networks take them."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def calibration_images() -> torch.Tensor:
    """The first training images (the file is shuffled): never one of the test set."""
    return _images("train", limit=CALIBRATION_IMAGES)[0]


def _images(part: str, *, limit: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    source = data_folder() / "cifar10" / f"{part}.parquet"
    kept = cache() / f"cifar10-{part}-{limit or 'all'}-{_digest(source)}.safetensors"
    if not kept.exists():
        images = Images(str(source), augment=False)
        rows = [images[index] for index in range(limit or len(images))]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        pixels = (torch.stack([image for image, _ in rows]) - mean) / std
        _save({"images": pixels, "labels": torch.stack([label for _, label in rows])}, kept)
    found = load_file(kept)
    return found["images"], found["labels"]


def _digest(source: Path) -> str:
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.rename(path)


def sentences() -> list[str]:
    """English sentences of the documents, code and tables left out, the same ones in the same order every time."""
    found: dict[str, None] = {}
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]):
        text = re.sub(r"```.*?```", " ", path.read_text(), flags=re.DOTALL)
        lines = [line for line in text.splitlines() if not line.lstrip().startswith(("|", "#", "<", "    "))]
        flat = re.sub(r"\s+", " ", re.sub(r"[`*]|^[-0-9.]+ ", "", "\n".join(lines), flags=re.MULTILINE))
        for sentence in re.split(r"(?<=[.!?]) ", flat):
            if len(sentence.split()) >= LEAST_WORDS:
                found.setdefault(sentence.strip())
    return list(found)


def tokenized() -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, int64 [N, 32], of sentences spread over all documents; longer ones are cut off."""
    tokenizer = Tokenizer.from_file(str(encoder_weights().with_name("tokenizer.json")))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    told = sentences()
    if len(told) < SENTENCES:
        raise SystemExit(f"the documents have {len(told)} sentences, the comparison needs {SENTENCES}")
    encoded = tokenizer.encode_batch([told[index * len(told) // SENTENCES] for index in range(SENTENCES)])
    return torch.tensor([row.ids for row in encoded]), torch.tensor([row.attention_mask for row in encoded])


def token_rows(count: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What is timed: rows without padding, of random words."""
    chosen = torch.randint(1000, 30000, (count, TOKENS), generator=torch.Generator().manual_seed(seed))
    return chosen, torch.ones_like(chosen)
