"""Models that were not trained here, from the shell to answers: weights with a recipe, and an exported program."""

import json

import pytest

from examples.demo import kube
from tests.e2e import serving
from tests.e2e.serving import Version

# What the network of seed 1 says about two images, and the same network as a program that needs none of our code.
EXPORT = """
import json, sys, torch
sys.path.insert(0, "/tmp/recipe")
from recipe import Digits
torch.manual_seed(1)
module = Digits({"width": 16}).model().eval()
images = torch.zeros(2, 1, 8, 8)
images[1] = 0.5
batch = torch.export.Dim("batch")
torch.export.save(torch.export.export(module, (images,), dynamic_shapes=({0: batch},)), "/tmp/digits.pt2")
print(json.dumps(module(images).tolist()))
"""
INSTANCES = [[[[value] * 8] * 8] for value in (0.0, 0.5)]


@pytest.fixture(scope="module")
def expected(space: kube.Namespace) -> list[list[float]]:
    """Version 1 is a recipe with weights, version 2 a program; both must answer this."""
    serving.pods(space)
    serving.publish(space, Version(seed=1, channel=None, hyperparameters={"width": 16}))
    answers: list[list[float]] = json.loads(space("exec", "shop", "--", "python", "-c", EXPORT, timeout=300).splitlines()[-1])
    told = serving.modelmill(space, "import", "digits", "--program", "/tmp/digits.pt2")
    assert "published version 2 of model digits (sha256:" in told
    assert "modelmill promote digits 2" in told
    return answers


def test_both_answer_as_the_module_does(space: kube.Namespace, expected: list[list[float]]) -> None:
    versions = {"recipe": 1, "program": 2}
    space.apply(*(serving.service(name, model={"name": "digits", "version": n}) for name, n in versions.items()))
    for name, version in versions.items():
        found = serving.served(space, version, name=name)
        (answer,) = serving.ask(space, serving.request(found["status"]["url"], {"instances": INSTANCES}))
        assert answer.status == 200, answer
        predictions = json.loads(answer.body)["predictions"]
        assert len(predictions) == 2
        for scores, wanted in zip(predictions, expected, strict=True):
            assert scores == pytest.approx(wanted, abs=1e-4)


@pytest.mark.usefixtures("expected")
def test_the_shell_lists_what_there_is_and_moves_channels(space: kube.Namespace) -> None:
    assert "points to version 1" in serving.modelmill(space, "promote", "digits", "1", "--channel", "candidate")
    assert "it pointed to version 1" in serving.modelmill(space, "promote", "digits", "2", "--channel", "candidate")
    (model,) = json.loads(serving.modelmill(space, "models", "-o", "json"))
    assert (model["model"], model["newest"], model["channels"]) == ("digits", 2, {"candidate": 2})
    rows = json.loads(serving.modelmill(space, "versions", "digits", "-o", "json"))
    assert [(row["version"], row["variant"], row["channels"], row["from"]) for row in rows] == [
        (2, "dense", ["candidate"], "import"),
        (1, "dense", [], "import"),
    ]


@pytest.mark.usefixtures("expected")
def test_weights_that_do_not_fit_the_recipe_are_refused(space: kube.Namespace) -> None:
    given = ("--weights", "/tmp/weights-1.safetensors", "--recipe", "/tmp/recipe", "--entrypoint", "served:Served")
    with pytest.raises(kube.KubeError, match=r"modelmill: tensor .* \[32\], the file .* \[16\]"):
        serving.modelmill(space, "import", "digits", *given, "--hyperparameters", '{"width": 32}')
    assert len(json.loads(serving.modelmill(space, "versions", "digits", "-o", "json"))) == 2
