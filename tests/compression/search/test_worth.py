"""What pruning cannot bring on this machine is told with numbers that were measured here."""

import re

import torch
from torch import nn

from modelmill.compress.pipeline import compress
from modelmill.contract.steps import Prune, Quantize, Step
from tests.compression.methods.taught import Rows, context

WIDE = 1024


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDE, WIDE), nn.ReLU(), nn.Linear(WIDE, 4)).eval()


def warnings_of(*steps: Step) -> tuple[str, ...]:
    module = model()
    return compress(module, steps, context(Rows(torch.randn(8, WIDE), torch.zeros(8).long()), teacher=module)).warnings


def test_half_of_single_weights_make_a_cpu_no_faster_and_the_job_is_told_so_in_numbers() -> None:
    (told,) = warnings_of(Step(prune=Prune(sparsity=0.5)))
    device = r"prune Unstructured: 0.50 of the weights are zeros; on this device \(\w+, one thread\) .*"
    figures = r"take (\S+) times dense's time, and all of them (\S+) of its bytes: it makes the file smaller, not faster;"
    found = re.match(device + figures, told)
    assert found
    assert float(found[1]) > 0.95
    assert 0.5 < float(found[2]) < 0.6


def test_two_of_four_is_no_faster_on_a_cpu_either() -> None:
    (told,) = warnings_of(Step(prune=Prune(sparsity=0.5, pattern="2:4")))
    assert told.startswith("prune 2:4: 0.50 of the weights are zeros")


def test_zeros_that_codes_store_as_any_value_are_told() -> None:
    (told,) = warnings_of(Step(prune=Prune(sparsity=0.5)), Step(quantize=Quantize(bits=4)))
    assert "0.50 of the weights are zeros that are stored as any value" in told


def test_blocks_that_are_faster_need_no_words() -> None:
    assert warnings_of(Step(prune=Prune(sparsity=0.8, pattern="16x1")), Step(quantize=Quantize())) == ()


def test_without_data_nothing_is_measured() -> None:
    assert compress(model(), (Step(prune=Prune(sparsity=0.5)),)).warnings == ()
