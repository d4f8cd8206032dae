"""Programs answer as their convolutions do one by one: coded ones to the bit, dense ones up to the order of sums."""

import copy
import ctypes
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from modelmill.compress.errors import CompressionError
from modelmill.kernels import coded_conv2d, native
from modelmill.kernels.conv import Geometry
from modelmill.kernels.operations import Dense, Operation
from modelmill.kernels.program import Program, available, takes
from modelmill.kernels.weight import Coded
from tests.compression.kernels.made import Made, module, running, sets, weight

THREE = Geometry((3, 3), (1, 1), (1, 1), (1, 1))


def coded(
    channels: int, outputs: int, geometry: Geometry, *, bits: int = 8, table: str = "none", seed: int = 0
) -> tuple[Coded, Made]:
    inputs = geometry.inputs(channels)
    made = weight(bits, outputs, inputs, table=table, seed=seed)
    return Coded(*made, bits, outputs, inputs), made


def apart(x: torch.Tensor, made: Made, operation: Operation, residual: torch.Tensor | None) -> torch.Tensor:
    weight, geometry = operation.weight, operation.geometry
    assert isinstance(weight, Coded)
    return coded_conv2d(
        x, *made, bits=weight.bits, outputs=weight.outputs, kernel=geometry.kernel, stride=geometry.stride,
        padding=geometry.padding, dilation=geometry.dilation, activation_scale=operation.activation_scale,
        residual=residual, relu=operation.relu,
    )  # fmt: skip


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).contiguous(memory_format=torch.channels_last)


KINDS = ((8, "none"), (8, "any"), (4, "any"), (2, "steps"), (1, "close"))
"""Bits of a weight, and its table of levels."""


class Chain:
    """Coded convolutions of each other's values, with what each gives by itself."""

    def __init__(self, x: torch.Tensor) -> None:
        self.values, self.operations = [x], list[Operation]()

    def positive(self) -> list[int]:
        return [place for place in range(len(self.values)) if place == 0 or self.operations[place - 1].relu]

    def add(self, data: st.DataObject) -> None:
        of = data.draw(st.sampled_from(self.positive()), label="x")
        kernel, padding = data.draw(st.sampled_from([1, 3]), label="kernel"), data.draw(st.integers(0, 2), label="padding")
        stride = data.draw(st.sampled_from([1, 2]), label="stride")
        geometry = Geometry((kernel, kernel), (stride, 1), (padding + kernel // 2, kernel // 2), (1, 1))
        bits, table = data.draw(st.sampled_from(KINDS), label="weight")
        outputs = data.draw(st.sampled_from([1, 8, 16, 20]), label="outputs")
        seed = len(self.operations)
        weight, made = coded(self.values[of].shape[1], outputs, geometry, bits=bits, table=table, seed=seed)
        shape = (self.values[0].shape[0], outputs, *geometry.sizes(self.values[of]))
        others = [place for place, value in enumerate(self.values) if value.shape == shape]
        residual = data.draw(st.sampled_from([None, *others]), label="residual")
        relu = data.draw(st.booleans(), label="relu")
        operation = Operation(weight=weight, geometry=geometry, x=of, residual=residual, relu=relu)
        self.operations.append(operation)
        self.values.append(apart(self.values[of], made, operation, None if residual is None else self.values[residual]))


@pytest.mark.parametrize("number", sets())
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_coded_convolutions_in_a_program_give_the_bits_of_each_by_itself(number: int, data: st.DataObject) -> None:
    channels = data.draw(st.sampled_from([1, 3, 8, 16, 20]), label="channels")
    size = data.draw(st.tuples(st.integers(3, 9), st.sampled_from([3, 4, 7, 13, 16, 35])), label="size")
    chain = Chain(images(data.draw(st.integers(1, 5), label="batch"), channels, *size))
    count = data.draw(st.integers(1, 4), label="operations")
    with running(module(), number):
        for _ in range(count):
            chain.add(data)
        wanted = sorted(data.draw(st.sets(st.integers(1, count), min_size=1), label="outputs"))
        program = Program(operations=tuple(chain.operations), inputs=1, outputs=tuple(wanted))
        for _ in range(2):
            for place, found in zip(wanted, program.run(chain.values[0]), strict=True):
                assert torch.equal(found, chain.values[place])


@pytest.mark.parametrize("number", sets())
@settings(max_examples=40, deadline=None)
@given(
    channels=st.sampled_from([1, 3, 8, 16, 19]), outputs=st.sampled_from([1, 8, 16, 23]), batch=st.integers(1, 4),
    size=st.tuples(st.integers(3, 9), st.sampled_from([3, 5, 8, 14, 17, 34])),
    kernel=st.sampled_from([1, 2, 3]), stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]), relu=st.booleans(), added=st.booleans(),
)  # fmt: skip
def test_dense_convolutions_in_a_program_agree_with_torch(
    number: int, channels: int, outputs: int, batch: int, size: tuple[int, int], kernel: int, stride: int, dilation: int,
    relu: bool, added: bool,
) -> None:  # fmt: skip
    source = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, *size, generator=source)
    first = torch.randn(outputs, channels, 3, 3, generator=source)
    second = torch.randn(outputs, outputs, kernel, kernel, generator=source)
    bias = torch.randn(outputs, generator=source)
    geometry = Geometry((kernel, kernel), (stride, stride), (kernel, kernel), (dilation, dilation))
    operations = [
        Operation(weight=Dense.of(first, bias), geometry=THREE, x=0),
        Operation(weight=Dense.of(second, None), geometry=geometry, x=1, relu=relu),
    ]
    middle = functional.conv2d(x, first, bias, padding=1).relu()
    expected = functional.conv2d(middle, second, None, stride, kernel, dilation)
    expected = expected.relu() if relu else expected
    if added:
        operations.append(Operation(weight=Dense.of(first, bias), geometry=THREE, x=0, residual=1, relu=relu))
        total = functional.conv2d(x, first, bias, padding=1) + middle
        expected = total.relu() if relu else total
    with running(module(), number):
        (found,) = Program(operations=tuple(operations), inputs=1, outputs=(len(operations),)).run(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_threads_on_one_sample_or_on_many_give_the_same_bits() -> None:
    weight, _ = coded(16, 16, THREE)
    dense = Dense.of(torch.randn(16, 16, 3, 3), None)
    operations = (
        Operation(weight=weight, geometry=THREE, x=0),
        Operation(weight=dense, geometry=THREE, x=1, residual=0),
        Operation(weight=weight, geometry=THREE, x=2, residual=1),
    )
    before = torch.get_num_threads()
    try:
        for batch in (1, 2, 5):
            x = images(batch, 16, 96, 90)
            results = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(Program(operations=operations, inputs=1, outputs=(1, 3)).run(x))
            for other in results[1:]:
                assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    finally:
        torch.set_num_threads(before)


def test_a_sample_that_is_not_finite_is_nan_and_others_are_not_touched() -> None:
    weight, _ = coded(4, 8, THREE)
    program = Program(operations=(Operation(weight=weight, geometry=THREE, x=0),), inputs=1, outputs=(1,))
    x = images(3, 4, 5, 5)
    (clean,) = program.run(x)
    x[1, 2, 3, 3] = float("inf")
    (found,) = program.run(x)
    assert found[1].isnan().all()
    assert torch.equal(found[::2], clean[::2])


def test_values_below_zero_count_as_zero_in_a_coded_convolution() -> None:
    weight, _ = coded(4, 8, THREE)
    program = Program(operations=(Operation(weight=weight, geometry=THREE, x=0, activation_scale=0.01),), inputs=1, outputs=(1,))
    x = images(1, 4, 5, 5) - 0.5
    assert torch.equal(program.run(x)[0], program.run(x.relu())[0])


def test_a_calibrated_scale_is_that_of_the_convolution_by_itself() -> None:
    weight, made = coded(4, 8, THREE)
    operation = Operation(weight=weight, geometry=THREE, x=0, activation_scale=0.004)
    x = images(2, 4, 6, 7)
    (found,) = Program(operations=(operation,), inputs=1, outputs=(1,)).run(x)
    assert torch.equal(found, apart(x, made, operation, None))


def test_no_rows_and_images_of_other_sizes_are_answered() -> None:
    weight, _ = coded(4, 8, THREE)
    program = Program(operations=(Operation(weight=weight, geometry=THREE, x=0),), inputs=1, outputs=(1,))
    assert program.run(images(0, 4, 5, 5))[0].shape == (0, 8, 5, 5)
    for size in range(1, 12):
        assert program.run(images(1, 4, size, 3))[0].shape == (1, 8, size, 3)


def test_shapes_that_do_not_fit_are_refused_with_both_numbers() -> None:
    weight, _ = coded(4, 8, THREE)
    program = Program(operations=(Operation(weight=weight, geometry=THREE, x=0, residual=0),), inputs=1, outputs=(1,))
    with pytest.raises(CompressionError, match="x has 5 channels, which make 72 inputs of a window: the weight takes 36"):
        program.run(images(1, 5, 5, 5))
    with pytest.raises(CompressionError, match=r"residual is \[4, 5, 5\]: it has to be \[8, 5, 5\]"):
        program.run(images(1, 4, 5, 5))
    with pytest.raises(CompressionError, match="a convolution takes"):
        program.run(torch.zeros(1, 4, 5))


def test_convolutions_of_one_value_must_agree_on_its_scale() -> None:
    weight, _ = coded(4, 8, THREE)
    operations = tuple(Operation(weight=weight, geometry=THREE, x=0, activation_scale=scale) for scale in (0.1, 0.2))
    with pytest.raises(CompressionError, match="different activation scales"):
        Program(operations=operations, inputs=1, outputs=(1, 2)).run(images(1, 4, 5, 5))


def test_a_weight_with_groups_or_zero_points_is_not_taken() -> None:
    grouped = weight(4, 8, 36, groups=3)
    assert not takes(Coded(*grouped, 4, 8, 36))
    assert not takes(Coded(*weight(4, 8, 36, zero=True), 4, 8, 36))
    assert takes(Coded(*weight(4, 8, 36), 4, 8, 36))


def test_a_program_cannot_be_copied_away_from_its_weights() -> None:
    weight, _ = coded(4, 8, THREE)
    program = Program(operations=(Operation(weight=weight, geometry=THREE, x=0),), inputs=1, outputs=(1,))
    with pytest.raises(TypeError, match="points into its weights"):
        copy.deepcopy(program)


def test_a_set_that_runs_programs_otherwise_makes_none_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def wrong(number: int, *rest: int) -> None:
        module().run(number, *rest)
        if number:
            ctypes.c_float.from_address(rest[-1]).value += 1

    chosen = native.Chosen(module(), 1, "broken", "")
    chosen.run = wrong
    before, native.chosen = native.chosen, chosen
    try:
        with caplog.at_level(logging.WARNING):
            assert not available(dense=False)
    finally:
        native.chosen = before
    assert "broken runs programs of convolutions otherwise than plain C++" in caplog.text


def test_without_the_native_module_there_are_no_programs() -> None:
    with running(None):
        assert not available(dense=False)
