"""What the loader may do to a module: answers stay, whatever cannot be rewritten is left alone, nothing is raised.

Not here: convolutions of small images (test_small_images), the batch size (test_saturation), and speed
(`python -m benchmarks.optimize`).
"""

import copy
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from modelmill.compress import modules
from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.codes import Codes
from modelmill.compress.grids.uniform import Uniform
from modelmill.serve.optimize.apply import Optimized, optimize
from tests.unit.serve.nets import CHANNELS, IMAGES, NETS, SIZE, Net, assert_same, conv, norm


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def done(optimized: Optimized) -> str:
    return "; ".join(optimized.notes)


@pytest.mark.parametrize("name", NETS)
def test_answers_stay_for_any_number_of_rows(name: str) -> None:
    module = NETS[name]().eval()
    optimized = optimize(module, example=(IMAGES,))
    assert optimized.module is not module, optimized.notes
    for rows in (1, 2, 5, 16):
        x = torch.randn(rows, CHANNELS, SIZE, SIZE)
        with torch.inference_mode():
            assert_same(optimized.module(x.clone()), module(x.clone()))


def test_images_of_another_size_are_right() -> None:
    module = NETS["a residual block"]().eval()
    optimized = optimize(module, example=(IMAGES,))
    for size in (3, 17, 40):
        x = torch.randn(2, CHANNELS, size, size - 1)
        with torch.inference_mode():
            assert_same(optimized.module(x), module(x))


def test_notes_say_what_was_done() -> None:
    module = NETS["a residual block with a convolution on its shortcut"]().eval()
    text = done(optimize(module, example=(IMAGES,)))
    assert text == "3 batch norms folded into convolutions, 3 convolutions channels-last, 3 convolutions in programs"


def test_the_given_module_is_not_touched() -> None:
    module = NETS["a residual block"]().eval()
    tensors, code = {name: id(tensor) for name, tensor in module.state_dict(keep_vars=True).items()}, repr(module)
    values = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    optimize(module, example=(IMAGES,))
    assert repr(module) == code
    assert {name: id(tensor) for name, tensor in module.state_dict(keep_vars=True).items()} == tensors
    assert_same(dict(module.state_dict()), values)


def test_old_weights_are_not_held_beside_new_ones() -> None:
    module = NETS["a residual block"]().eval()
    old = [weakref.ref(tensor) for tensor in module.parameters()]
    optimized = optimize(module, example=(IMAGES,))
    del module
    gc.collect()
    assert not [tensor for reference in old if (tensor := reference()) is not None]
    assert list(optimized.module.parameters())


@pytest.mark.parametrize(("classes", "own"), [(2, True), (2000, False)])
def test_few_weights_that_stay_do_not_keep_the_whole_file(classes: int, own: bool) -> None:
    """Dense tensors are cut out of one mapped file; where most of it stays in use, copying would gain nothing."""
    module = nn.Sequential(conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, classes)).eval()
    file = torch.cat([tensor.flatten() for tensor in module.state_dict().values()])
    cut = file.split([tensor.numel() for tensor in module.state_dict().values()])
    module.load_state_dict(
        {name: part.view(old.shape) for part, (name, old) in zip(cut, module.state_dict().items(), strict=True)}, assign=True
    )
    optimized = optimize(module, example=(IMAGES,))
    assert optimized.module is not module
    kept = [tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in optimized.module.parameters()]
    assert kept == [own] * 3
    assert all(tensor.untyped_storage().nbytes() == file.nbytes for tensor in module.parameters())


class Branching(nn.Module):
    """What it does depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.negative = nn.Sequential(conv(), norm()), conv()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x) if x.mean() > 0 else self.negative(x)
        return y


@pytest.mark.parametrize("wrap", [lambda module: module, lambda module: nn.Sequential(conv(), module, norm())])
def test_what_depends_on_values_still_does(wrap: Callable[[nn.Module], nn.Module]) -> None:
    module = wrap(Branching()).eval()
    optimized = optimize(module, example=(IMAGES,))
    assert "1 batch norms folded into convolutions" in done(optimized)
    assert "stay: TraceError: symbolically traced variables cannot be used as inputs to control flow" in done(optimized)
    for sign in (1, -1):
        x = sign * torch.rand(2, CHANNELS, SIZE, SIZE)
        with torch.inference_mode():
            assert_same(optimized.module(x), module(x))


def test_a_part_that_cannot_be_traced_is_called_once_and_nothing_of_it_beside() -> None:
    body = nn.Sequential(conv(), Branching(), conv())
    module = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), body, conv()).eval()
    optimized = optimize(module, example=(IMAGES,))
    assert isinstance(optimized.module, fx.GraphModule), optimized.notes
    called = [str(node.target) for node in optimized.module.graph.nodes if node.op == "call_module"]
    assert "4" not in called
    assert called.count("4.1") == 1
    with torch.inference_mode():
        assert_same(optimized.module(IMAGES), module(IMAGES))


def test_what_follows_a_part_that_cannot_be_traced_is_folded() -> None:
    module = nn.Sequential(nn.Sequential(Branching(), conv(), norm()), Branching(), conv(), norm()).eval()
    assert done(optimize(module, example=(IMAGES,))).startswith("4 batch norms folded into convolutions")


def test_batch_norm_that_was_left_in_training_is_not_folded() -> None:
    module = nn.Sequential(conv(), norm(), conv(), norm()).eval()
    module[1].train()
    optimized = optimize(module, example=(IMAGES,))
    told = "1 batch norms folded into convolutions, 2 convolutions channels-last"
    assert done(optimized) == f"{told}, 2 layers with prepacked weights"


class Counting(nn.Module):
    """It keeps state outside of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = conv(), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        y: torch.Tensor = self.conv(x)
        return y


def test_the_modules_own_code_runs() -> None:
    module = nn.Sequential(Counting(), norm(), conv()).eval()
    optimized = optimize(module, example=(IMAGES,))
    assert "1 batch norms folded into convolutions" in done(optimized)
    counting = optimized.module.get_submodule("0")
    assert isinstance(counting, Counting)
    before = counting.calls
    optimized.module(IMAGES)
    assert counting.calls == before + 1


def test_hooks_run_and_what_has_them_is_not_folded() -> None:
    seen: list[str] = []
    module = nn.Sequential(nn.Sequential(conv(), norm()), conv(), norm()).eval()
    for part in (module[0], module[1]):
        part.register_forward_hook(lambda part, inputs, output: seen.append(type(part).__name__))
    optimized = optimize(module, example=(IMAGES,))
    told = "1 batch norms folded into convolutions, 2 convolutions channels-last"
    assert done(optimized) == f"{told}, 1 layers with prepacked weights"
    seen.clear()
    optimized.module(IMAGES)
    assert seen == ["Sequential", "Conv2d"]


def test_arguments_that_are_not_given_keep_their_defaults() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, times: int = 2) -> torch.Tensor:
            y: torch.Tensor = self.conv(x if mask is None else x * mask) * times
            return y

    module = Optional().eval()
    for example in ((IMAGES,), (IMAGES, IMAGES)):
        optimized = optimize(module, example=example)
        assert optimized.module is not module, optimized.notes
        inputs = [torch.randn(2, CHANNELS, SIZE, SIZE) for _ in example]
        with torch.inference_mode():
            assert_same(optimized.module(*inputs), module(*inputs))


def test_batch_norms_are_folded_into_the_scales_of_compressed_convolutions() -> None:
    plain = conv()
    codes = Uniform(bits=8).encode(plain.weight, name="w")
    int8 = modules.replace(plain, CodedWeight.of(codes))
    module = nn.Sequential(conv(), norm(), int8, norm(), nn.ReLU(), conv()).eval()
    optimized = optimize(module, example=(IMAGES,))
    told = "2 batch norms folded into convolutions, 2 convolutions channels-last"
    assert done(optimized) == f"{told}, 2 layers with prepacked weights, 1 convolutions fused with what follows"
    assert any(isinstance(part, modules.CompressedConv2d) for part in optimized.module.modules())
    x = torch.randn(5, CHANNELS, SIZE, SIZE)
    with torch.inference_mode():
        assert_same(optimized.module(x), module(x))


class Recurring(nn.Module):
    """A forward that is another one at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.calls = conv(), conv(), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        y: torch.Tensor = self.two(self.one(x).relu()) * self.calls
        return y


def test_a_forward_that_changes_its_module_runs_each_time() -> None:
    optimized = optimize(Recurring().eval(), example=(IMAGES,))
    assert "programs" not in done(optimized)


def test_a_forward_that_makes_tensors_runs_each_time() -> None:
    module = Net(lambda net, x: net.two(net.one(x).relu()) + torch.zeros(1), one=conv(), two=conv()).eval()
    assert "programs" not in done(optimize(module, example=(IMAGES,)))


def test_convolutions_around_another_layer_are_in_programs_of_their_own() -> None:
    layers = {name: conv() for name in ("a", "b", "c", "d")}

    def forward(net: Any, x: torch.Tensor) -> Any:
        y = net.b(net.a(x).relu()).relu()
        z = net.d(net.c(torch.sigmoid(y)).relu()) + y
        return z * y

    module = Net(forward, **layers).eval()
    optimized = optimize(module, example=(IMAGES,))
    assert "4 convolutions in programs" in done(optimized)
    assert [type(part).__name__ for part in optimized.module.children()] == ["ConvProgram", "ConvProgram"]
    for rows in (1, 4):
        x = torch.randn(rows, CHANNELS, SIZE, SIZE)
        with torch.inference_mode():
            assert_same(optimized.module(x), module(x))


def test_a_value_that_others_read_comes_out_of_a_program() -> None:
    module = Net(lambda net, x: (y := net.a(x).relu(), net.b(y)), a=conv(), b=conv()).eval()
    optimized = optimize(module, example=(IMAGES,))
    assert "2 convolutions in programs" in done(optimized)
    x = torch.randn(3, CHANNELS, SIZE, SIZE)
    with torch.inference_mode():
        assert_same(optimized.module(x), module(x))


def test_a_residual_of_fewer_rows_is_added_as_torch_adds_it() -> None:
    module = Net(lambda net, x: net.b(net.a(x).relu()) + x[:1], a=conv(), b=conv()).eval()
    optimized = optimize(module, example=(IMAGES,))
    x = torch.randn(3, CHANNELS, SIZE, SIZE)
    with torch.inference_mode():
        assert_same(optimized.module(x), module(x))


def test_a_copy_of_an_optimized_module_has_a_program_of_its_own() -> None:
    module = NETS["a residual block"]().eval()
    optimized = optimize(module, example=(IMAGES,)).module
    x = torch.randn(3, CHANNELS, SIZE, SIZE)
    with torch.inference_mode():
        expected = optimized(x)
        copied = copy.deepcopy(optimized)
        for parameter in optimized.parameters():
            parameter.fill_(0)
        assert_same(copied(x), expected)


def test_making_a_plan_does_not_count_as_time() -> None:
    plain = nn.Conv2d(32, 32, 3, padding=1)
    layers: list[nn.Module] = [nn.ReLU()]
    for _ in range(24):
        layers += (modules.replace(plain, CodedWeight.of(_int8(plain))), nn.ReLU())
    module = nn.Sequential(*layers).eval()
    for part in module.modules():
        if isinstance(part, CodedWeight):
            part.prepare()
    assert "24 convolutions in programs" in done(optimize(module, example=(torch.rand(2, 32, 8, 8),)))


def _int8(layer: nn.Conv2d) -> Codes:
    return Uniform(bits=8).encode(layer.weight, name="w")


def unfaithful(net: Any, x: torch.Tensor) -> torch.Tensor:
    """`isinstance` does not see a tensor while torch.fx looks, so it sees a batch norm that is not there."""
    y: torch.Tensor = net.one(x) if isinstance(x, torch.Tensor) else net.norm(net.one(x))
    return y


def unfaithful_for_one_row(net: Any, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = net.one(x) if isinstance(x.shape[0], int) and x.shape[0] == 1 else net.norm(net.one(x))
    return y


def spinning(net: Any, x: torch.Tensor) -> torch.Tensor:
    """It likes neither channels-last nor packed weights."""
    plain = type(net.one) is nn.Conv2d and net.one.weight.is_contiguous()
    end = time.process_time() + (0.0 if plain else 0.05)
    while time.process_time() < end:
        pass
    y: torch.Tensor = net.one(x)
    return y


class Locked(nn.Sequential):
    """It cannot be copied."""

    def __init__(self) -> None:
        super().__init__(conv())
        self.lock = threading.Lock()


def with_forward(forward: Callable[[Any, torch.Tensor], Any]) -> nn.Module:
    return Net(forward, one=conv(), norm=norm(), dropout=nn.Dropout(0.5)).eval()


def dropping_always() -> nn.Module:
    module = with_forward(lambda net, x: net.dropout(net.one(x)))
    module.get_submodule("dropout").train()
    return module


LEFT_ALONE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "training": (lambda: nn.Sequential(conv()), "it is in training mode"),
    "bfloat16": (lambda: nn.Sequential(conv()).bfloat16().eval(), "its weights are torch.bfloat16"),
    "float64": (lambda: nn.Sequential(conv()).double().eval(), "its weights are torch.float64"),
    "elsewhere": (lambda: nn.Sequential(conv()).to("meta").eval(), "its weights are on meta"),
    "no convolutions": (lambda: nn.Sequential(nn.Linear(SIZE, 3), nn.ReLU()).eval(), "the model runs as it is"),
    "random": (lambda: with_forward(lambda net, x: net.one(x) + torch.rand_like(x)), "it answers otherwise for 3 rows"),
    "random by constants": (lambda: with_forward(lambda net, x: net.one(x) + torch.rand(1)), "it answers otherwise"),
    "dropout that was left on": (dropping_always, "it answers otherwise for 3 rows"),
    "otherwise when traced": (lambda: with_forward(unfaithful), "it answers otherwise for 3 rows: output of the model: off by"),
    "otherwise for one row": (lambda: with_forward(unfaithful_for_one_row), "it answers otherwise for 1 rows: output"),
    "slower": (lambda: with_forward(spinning), "it is slower: 5"),
    "cannot be copied": (lambda: Locked().eval(), "cannot pickle"),
    "fails": (lambda: with_forward(lambda net, x: net.one(x).reshape(7)), "RuntimeError"),
    "an answer of its own type": (lambda: with_forward(lambda net, x: {net.one(x)}), "the model runs as it is"),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_a_module_is_served_as_it_is(name: str) -> None:
    build, reason = LEFT_ALONE[name]
    module = build()
    optimized = optimize(module, example=(IMAGES,))
    assert optimized.module is module
    assert reason in done(optimized)


def test_no_example_is_no_reason_to_raise() -> None:
    module = nn.Sequential(conv()).eval()
    assert optimize(module, example=()).module is module


@pytest.mark.parametrize("shape", [(2, CHANNELS + 1, SIZE, SIZE), (2, CHANNELS, 1, 1), (2, CHANNELS), (2, CHANNELS, SIZE)])
def test_an_input_that_does_not_fit_is_an_error_as_before(shape: tuple[int, ...]) -> None:
    module = nn.Sequential(conv(padding=0), norm(), nn.ReLU()).eval()
    optimized = optimize(module, example=(IMAGES,))
    assert optimized.module is not module
    for candidate in (module, optimized.module):
        with pytest.raises(RuntimeError), torch.inference_mode():
            candidate(torch.zeros(shape))


def test_other_threads_run_modules_while_one_is_traced() -> None:
    other = nn.Sequential(conv(), norm()).eval()
    answers: list[torch.Tensor] = []

    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        thread = threading.Thread(target=lambda: answers.append(other(IMAGES)))
        thread.start()
        thread.join()
        y: torch.Tensor = net.norm(net.one(x))
        return y

    optimized = optimize(with_forward(forward), example=(IMAGES,))
    told = "1 batch norms folded into convolutions, 1 convolutions channels-last"
    assert done(optimized) == f"{told}, 1 layers with prepacked weights"
    answered = len(answers)
    optimized.module(IMAGES)
    assert answered >= 5
    assert len(answers) == answered + 1
    for answer in answers:
        assert_same(answer, answers[0])
