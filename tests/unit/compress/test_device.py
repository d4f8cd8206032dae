"""Compressed weights on the device that serves them: which way each goes, and what is told of it. Not: a real GPU."""

import copy
import logging

import pytest
import torch
from torch import nn

from modelmill.compress.apply import load_variant
from modelmill.compress.device import counted, settle, to_device, told
from modelmill.compress.modules import Compressed
from modelmill.compress.pipeline import compress
from modelmill.compress.weights import write_weights
from modelmill.contract.steps import Prune, Quantize, Step
from modelmill.kernels import native
from modelmill.kernels.gpu import Choice, Whole
from modelmill.kernels.gpu.integer import Int8
from tests.unit.compress.models import conv_net, dense_net

INT8 = Step(quantize=Quantize())


def loaded(module: nn.Module, tmp_path_factory: pytest.TempPathFactory, *steps: Step) -> nn.Module:
    file = tmp_path_factory.mktemp("w") / "w"
    write_weights(file, compress(module, steps).weights)
    return load_variant(copy.deepcopy(module), file)


def by_int8(weight: Whole) -> Choice:
    """As a GPU without tinygemm would choose: this way runs anywhere."""
    reason = Int8.refusal(weight, (9, 0))
    return Choice(Int8, ()) if reason is None else Choice(None, (f"int8: {reason}",))


def test_linear_layers_go_a_way_or_become_dense_and_answer_as_before(tmp_path_factory: pytest.TempPathFactory) -> None:
    module = loaded(dense_net(), tmp_path_factory, INT8)
    x = torch.randn(40, 64)
    with torch.inference_mode():
        before = module(x)
        found = settle(module, by_int8)
        assert float((module(x) - before).norm() / before.norm()) < 0.02
    assert [(one.name, one.by) for one in found] == [("0.weight", "int8"), ("2.weight", "dense"), ("4.weight", "dense")]
    assert [type(module.get_submodule(place)) for place in ("0", "2", "4")] == [Int8, nn.Linear, nn.Linear]
    assert counted(found) == {"int8": 1, "dense": 2}


def test_convolutions_are_decoded_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    module = loaded(conv_net(), tmp_path_factory, INT8)
    x = torch.randn(3, 3, 12, 12)
    with torch.inference_mode():
        before = module(x)
        found = settle(module, by_int8)
        assert float((module(x) - before).norm() / before.norm()) < 0.03
    convolutions = [one for one in found if one.reasons == ("it is a convolution's",)]
    assert len(convolutions) == 2 and {one.by for one in convolutions} == {"dense"}
    assert not any(isinstance(layer, Compressed) for layer in module.modules())


def test_nothing_of_the_stored_form_is_kept(tmp_path_factory: pytest.TempPathFactory) -> None:
    module = loaded(nn.Sequential(nn.Linear(64, 128), nn.ReLU()), tmp_path_factory, INT8)
    settle(module, by_int8)
    assert sum(tensor.nbytes for tensor in module.state_dict().values()) == 64 * 128 + 2 * 4 * 128


def test_a_dense_layer_has_the_type_that_the_module_computes_in(tmp_path_factory: pytest.TempPathFactory) -> None:
    module = loaded(dense_net(), tmp_path_factory, INT8).bfloat16()
    settle(module, lambda weight: Choice(None, ("off",)))
    assert module(torch.randn(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_float_values_become_dense_and_signs_of_activations_stay_what_they_are(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pruned = Prune(method="Magnitude", sparsity=0.5, pattern="2:4")
    sparse = settle(loaded(dense_net(), tmp_path_factory, Step(prune=pruned)), by_int8)
    assert {(one.by, one.reasons) for one in sparse} == {("dense", ("its values are no whole numbers",))}
    module = loaded(dense_net(), tmp_path_factory, Step(quantize=Quantize(method="XNOR")))
    x = torch.randn(5, 64)
    with torch.inference_mode():
        before = module(x)
        found = settle(module, by_int8)
        assert torch.equal(module(x), before)
    assert {(one.by, one.reasons) for one in found} == {("plain torch", ("its activations have 1 bit",))}


def test_on_a_cpu_everything_stays_and_the_instructions_are_told(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    module = loaded(dense_net(), tmp_path_factory, INT8)
    with caplog.at_level(logging.INFO):
        found = to_device(module, torch.device("cpu"))
    assert counted(found) == {native.chosen.isa: 3}
    assert f"on cpu: {native.chosen.isa} for 3 compressed weights" in caplog.text
    assert caplog.text.rstrip().endswith("(0.weight, 2.weight, 4.weight)")


def test_equal_reasons_are_one_line_of_the_log(tmp_path_factory: pytest.TempPathFactory) -> None:
    layers = [nn.Linear(30, 30) for _ in range(5)]
    found = settle(loaded(nn.Sequential(*layers), tmp_path_factory, INT8), by_int8)
    assert list(told(found)) == [
        "dense for 5 compressed weights: int8: 30 outputs and 30 inputs, 8 and 8 have to divide them "
        "(0.weight, 1.weight, 2.weight and 2 more)"
    ]
