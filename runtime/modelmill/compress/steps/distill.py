"""Distillation: the draft's module learns from the trained dense one."""

from modelmill.compress.distill import adversarial, features, simulated
from modelmill.compress.draft import Context, Draft
from modelmill.compress.errors import CompressionError
from modelmill.compress.steps.training import soft_of, train, training_of
from modelmill.compress.tune import hold
from modelmill.contract.steps import Distill


def run(step: Distill, draft: Draft, context: Context) -> None:
    training, soft = training_of(step.training), soft_of(step.training, context)
    held = hold(draft.module, draft.masks) if draft.masks else None
    label = f"distill {step.method}"
    if step.method == "Simple":
        train(step.training, draft, context, label=label)
    elif step.method == "Adversarial":
        attack = adversarial.Adversarial(attack=adversarial.Attack(epsilon=step.epsilon))
        adversarial.distill(draft.module, context, training, soft=soft, adversarial=attack, label=label, after_step=held)
    elif step.method == "Simulated":
        simulation = simulated.Simulation(sets=step.data_sets)
        attempts = simulated.distill(
            draft.module, context, training, soft=soft, simulation=simulation, label=label,
            prepare=(lambda: hold(draft.module, draft.masks)) if draft.masks else None,
        )  # fmt: skip
        kept = next(attempt for attempt in attempts if attempt.kept)
        draft.notes.append(
            f"simulated: kept the data set of temperature {kept.temperature:.2f}, divergence {kept.divergence:.4g}"
        )
    elif step.method in ("Features", "Attention"):
        method: features.Method = "Features" if step.method == "Features" else "Attention"
        matching = features.Matching(method=method, weight=step.weight)
        features.distill(draft.module, context, training, soft=soft, matching=matching, label=label, after_step=held)
    else:
        raise CompressionError(
            f"distill.method: {step.method!r} is not known; use Simple, Adversarial, Simulated, Features or Attention"
        )
