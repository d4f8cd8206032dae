"""The metrics agree with their definitions, whatever the batches; and say why when they have no value."""

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.evaluate.errors import EvaluationError
from modelmill.evaluate.metrics import Figures, Tally
from modelmill.evaluate.names import METRICS


def figures(outputs: torch.Tensor, targets: torch.Tensor, *, batch: int = 7, wanted: tuple[str, ...] = METRICS) -> Figures:
    tally = Tally(wanted)
    for part, truth in zip(outputs.split(batch), targets.split(batch), strict=True):
        tally.add(part, truth, loss=1.0)
    return tally.figures()


def expected(scores: numpy.ndarray, truth: numpy.ndarray) -> dict[str, float]:
    """By definition: macro averages over classes, the area under a curve as the share of pairs in the right order."""
    found, classes = scores.argmax(1), range(scores.shape[1])
    recalls, f1s, areas = [], [], []
    for each in classes:
        hits, told, real = ((found == each) & (truth == each)).sum(), (found == each).sum(), (truth == each).sum()
        recalls.append(hits / real)
        f1s.append(2 * hits / (told + real))
        gaps = scores[truth == each, each][:, None] - scores[truth != each, each][None, :]
        areas.append(((gaps > 0) + 0.5 * (gaps == 0)).mean())
    accuracy = (found == truth).mean()
    return {"accuracy": accuracy, "recall": numpy.mean(recalls), "f1": numpy.mean(f1s), "auc": numpy.mean(areas)}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 20), classes=st.integers(2, 6), rows=st.integers(0, 60), batch=st.integers(1, 80))
def test_many_classes_agree_with_the_definitions(seed: int, classes: int, rows: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.cat([torch.arange(classes), torch.randint(classes, (rows,), generator=generator)])
    outputs = torch.randn(len(targets), classes, generator=generator) + 2 * torch.nn.functional.one_hot(targets, classes)
    wanted = expected(outputs.double().softmax(1).numpy(), targets.numpy())
    found = figures(outputs, targets, batch=batch)
    assert not found.unmeasured
    assert {name: found.values[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_score_of_two_classes_agrees_with_the_definitions(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(2, (200,), generator=generator)
    outputs = torch.randn(200, generator=generator) + targets
    second = outputs.double().sigmoid()
    wanted = expected(torch.stack([1 - second, second], 1).numpy(), targets.numpy())
    # Binary cross entropy wants targets as floats in the outputs' shape.
    found = figures(outputs.view(shape), targets.float().view(shape))
    assert {name: found.values[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)


def test_large_scores_do_not_become_ties() -> None:
    outputs = torch.tensor([[0.0, 20.0], [0.0, 21.0], [0.0, 22.0], [0.0, 23.0]])
    assert figures(outputs, torch.tensor([0, 1, 0, 1])).values["auc"] == pytest.approx(0.75)


def test_loss_is_the_mean_over_rows_not_over_batches() -> None:
    tally = Tally(("loss",))
    tally.add(torch.zeros(3, 2), torch.zeros(3), loss=1.0)
    tally.add(torch.zeros(1, 2), torch.zeros(1), loss=5.0)
    assert tally.figures() == Figures(values={"loss": 2.0}, unmeasured={}, rows=4)


def test_a_class_that_does_not_occur_leaves_auc_without_value() -> None:
    found = figures(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    assert found.unmeasured == {"auc": "class 2 does not occur in the held-out data, so its curve is not defined"}
    assert found.values.keys() == {"accuracy", "recall", "f1", "loss"}


@pytest.mark.parametrize(
    ("outputs", "targets", "told"),
    [
        (torch.randn(4, 3), torch.tensor([0.5, 1.0, 0.0, 2.0]), "targets of torch.float32 are no class numbers"),
        (torch.randn(4, 3, 2), torch.tensor([0, 1, 0, 1]), "are no scores [N, classes]"),
        (torch.tensor([[0.0, 1.0], [math.nan, 1.0]]), torch.tensor([0, 1]), "1 rows of outputs in one batch are not finite"),
        (torch.tensor([[0.0, math.inf]]), torch.tensor([1]), "1 rows of outputs"),
    ],
)
def test_what_is_no_classification_has_only_a_loss(outputs: torch.Tensor, targets: torch.Tensor, told: str) -> None:
    found = figures(outputs, targets)
    assert found.values == {"loss": 1.0}
    assert found.unmeasured.keys() == {"accuracy", "recall", "f1", "auc"}
    assert all(told in reason for reason in found.unmeasured.values())


def test_a_loss_that_is_not_finite_has_no_value() -> None:
    tally = Tally(("loss",))
    tally.add(torch.zeros(1, 2), torch.zeros(1), loss=math.inf)
    assert tally.figures().unmeasured == {"loss": "it is inf"}


def test_a_target_that_is_no_class_is_an_error_of_the_data() -> None:
    with pytest.raises(EvaluationError, match=r"target 3 is not a class of the model, 0 to 2"):
        figures(torch.randn(2, 3), torch.tensor([0, 3]))


def test_no_rows_are_an_error_of_the_data() -> None:
    with pytest.raises(EvaluationError, match=r"have no rows"):
        Tally(METRICS).figures()
