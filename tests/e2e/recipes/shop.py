"""Runs in a pod: publishes versions with `modelmill import`, with weights made from a seed, several in one process.

Its argument is a JSON list of {"model", "seed", "channel" or null, "hyperparameters"}.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from modelmill.cli.__main__ import app
from modelmill.recipe.load import load_recipe

RECIPE = Path("/tmp/recipe")
ENTRYPOINT = "served:Served"


def main() -> None:
    RECIPE.mkdir(exist_ok=True)
    for name in ("recipe.py", "served.py"):
        shutil.copyfile(Path(__file__).parent / name, RECIPE / name)
    for wanted in json.loads(sys.argv[1]):
        publish(**wanted)


def publish(*, model: str, seed: int, channel: str | None, hyperparameters: dict[str, object]) -> None:
    weights = Path(f"/tmp/weights-{seed}.safetensors")
    torch.manual_seed(seed)
    save_file(load_recipe(RECIPE, ENTRYPOINT, hyperparameters).model().state_dict(), weights)
    given = ["--weights", str(weights), "--recipe", str(RECIPE), "--entrypoint", ENTRYPOINT]
    given += ["--hyperparameters", json.dumps(hyperparameters)]
    app(["import", model, *given, *(["--channel", channel] if channel else [])], standalone_mode=False)


if __name__ == "__main__":
    main()
