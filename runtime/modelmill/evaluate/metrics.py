"""What can be measured on held-out data, each with its definition. The sums are torchmetrics'.

Outputs [N, C] are scores (logits) of C classes; [N] or [N, 1] is the score of the second of two classes, as binary
cross entropy has it. Targets are class numbers. Averages over classes are macro: every class counts the same. They
are defined as scikit-learn's functions named below, given softmax probabilities.
"""

from dataclasses import dataclass

import torch
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score, MulticlassRecall

from modelmill.evaluate.errors import EvaluationError
from modelmill.evaluate.names import AUC, LOSS


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    values: dict[str, float]
    unmeasured: dict[str, str]
    """Metric -> why it has no value."""
    rows: int


class Tally:
    """Takes batches, gives the figures of all of them together."""

    def __init__(self, wanted: tuple[str, ...]) -> None:
        self.wanted = wanted
        self.rows = 0
        self._loss = 0.0
        self._sums: dict[str, Metric] = {}
        self._problem: str | None = None
        self._seen = torch.zeros(0, dtype=torch.bool)

    def add(self, outputs: object, targets: torch.Tensor, *, loss: float) -> None:
        rows = len(targets)
        self.rows += rows
        self._loss += loss * rows
        if set(self.wanted) <= {LOSS}:
            return
        self._problem = self._problem or _obstacle(outputs, targets)
        if self._problem is None:
            assert isinstance(outputs, torch.Tensor)
            self._classify(probabilities(outputs).cpu(), targets.reshape(-1).long().cpu())

    def figures(self) -> Figures:
        if self.rows == 0:
            raise EvaluationError("data.test: the held-out data have no rows; give at least one of each class")
        values, unmeasured = {}, {}
        for name in self.wanted:
            problem = self._problem if name != LOSS else None
            problem = problem or (self._absent_class() if name == AUC else None)
            if problem:
                unmeasured[name] = problem
            else:
                values[name] = self._loss / self.rows if name == LOSS else float(self._sums[name].compute())
        for name, value in list(values.items()):
            if not torch.tensor(value).isfinite():
                unmeasured[name] = f"it is {values.pop(name)}"
        return Figures(values=values, unmeasured=unmeasured, rows=self.rows)

    def _classify(self, scores: torch.Tensor, targets: torch.Tensor) -> None:
        classes = scores.shape[1]
        if not self._sums:
            self._sums = {name: _metric(name, classes) for name in self.wanted if name != LOSS}
            self._seen = torch.zeros(classes, dtype=torch.bool)
        outside = targets[(targets < 0) | (targets >= classes)]
        if len(outside):
            raise EvaluationError(f"data.test: target {int(outside[0])} is not a class of the model, 0 to {classes - 1}")
        self._seen[targets] = True
        for metric in self._sums.values():
            metric.update(scores, targets)

    def _absent_class(self) -> str | None:
        absent = (~self._seen).nonzero().flatten().tolist()
        return f"class {absent[0]} does not occur in the held-out data, so its curve is not defined" if absent else None


def probabilities(outputs: torch.Tensor) -> torch.Tensor:
    """Class probabilities [N, C] in double precision: in single, scores above 17 would tie."""
    if outputs.dim() == 1 or outputs.shape[1] == 1:
        second = outputs.reshape(-1).double().sigmoid()
        return torch.stack([1 - second, second], dim=1)
    return outputs.double().softmax(dim=1)


def _metric(name: str, classes: int) -> Metric:
    # Arguments are checked above, once; torchmetrics would do so in every update.
    if name == "accuracy":  # sklearn.metrics.accuracy_score
        return MulticlassAccuracy(classes, average="micro", validate_args=False)
    if name == "recall":  # sklearn.metrics.recall_score(average="macro")
        return MulticlassRecall(classes, average="macro", validate_args=False)
    if name == "f1":  # sklearn.metrics.f1_score(average="macro")
        return MulticlassF1Score(classes, average="macro", validate_args=False)
    assert name == AUC  # sklearn.metrics.roc_auc_score(multi_class="ovr", average="macro"), without bins
    return MulticlassAUROC(classes, average="macro", thresholds=None, validate_args=False)


def _obstacle(outputs: object, targets: torch.Tensor) -> str | None:
    """Why no metric of classification has a meaning for this batch."""
    if not isinstance(outputs, torch.Tensor):
        return f"the model returns a {type(outputs).__name__}, not one tensor of scores"
    if outputs.dim() > 2 or outputs.dim() == 0 or outputs.shape[0] != targets.numel():
        return f"outputs of shape {list(outputs.shape)} are no scores [N, classes] for targets {list(targets.shape)}"
    if targets.is_floating_point() and not bool((targets == targets.round()).all()):
        return f"targets of {targets.dtype} are no class numbers"
    if not bool(outputs.isfinite().all()):
        return f"{int((~outputs.isfinite()).any(dim=-1).sum())} rows of outputs in one batch are not finite"
    return None
