"""The README's code runs, and its links lead somewhere. Its resources are applied to a real API server elsewhere."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_recipe_learns_its_data() -> None:
    namespace: dict[str, Any] = {}
    exec(blocks("python")[0], namespace)
    recipe = namespace["Xor"]({"lr": "0.05"})
    torch.manual_seed(0)
    module, data = recipe.model(), recipe.dataset("unused", training=True)
    inputs, targets = data.tensors
    optimizer = recipe.optimizer(module.parameters())
    for _ in range(200):
        optimizer.zero_grad()
        loss = recipe.loss(module(inputs), targets)
        loss.backward()
        optimizer.step()
    assert (module(inputs).argmax(dim=1) == targets).all()
    assert module(inputs).shape[1:] == recipe.signature().outputs[0].shape[1:]


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_a_link_leads_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_make_target_that_is_named_exists() -> None:
    makefiles = "".join(path.read_text() for path in [ROOT / "Makefile", *ROOT.glob("*/*.mk"), *ROOT.glob("*/*/*.mk")])
    named = set(re.findall(r"make ([a-z][a-z-]+)", README))
    assert {name for name in named if not re.search(rf"^{name}:", makefiles, flags=re.MULTILINE)} <= {"make"}
