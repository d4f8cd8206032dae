"""Which samples each step takes, whatever the number of ranks."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.train.cursor import cut, derive, permutation, shares
from modelmill.train.hyperparameters import Hyperparameters, Schedule

schedules = st.builds(
    lambda samples, batch, steps: Schedule(samples=samples, batch_size=batch, total_steps=steps),
    st.integers(1, 60),
    st.integers(1, 20),
    st.integers(1, 40),
)


def taken(schedule: Schedule, *, seed: int, world: int, first_step: int = 0) -> dict[int, list[int]]:
    """Samples that count, of all ranks together, by step."""
    steps: dict[int, list[int]] = {step: [] for step in range(first_step, schedule.total_steps)}
    for rank in range(world):
        for share in shares(schedule, seed=seed, first_step=first_step, rank=rank, world=world):
            steps[share.step] += share.samples if share.weight > 0 else ()
    return steps


@given(schedule=schedules, seed=st.integers(0, 99), world=st.integers(1, 7))
def test_any_number_of_ranks_takes_the_same_samples_in_each_step(schedule: Schedule, seed: int, world: int) -> None:
    assert taken(schedule, seed=seed, world=world) == taken(schedule, seed=seed, world=1)


@given(schedule=schedules, seed=st.integers(0, 99), world=st.integers(1, 7))
def test_the_steps_of_an_epoch_take_every_sample_once(schedule: Schedule, seed: int, world: int) -> None:
    steps = taken(schedule, seed=seed, world=world)
    whole_epochs = schedule.total_steps // schedule.steps_per_epoch
    for epoch in range(whole_epochs):
        first = epoch * schedule.steps_per_epoch
        samples = [sample for step in range(first, first + schedule.steps_per_epoch) for sample in steps[step]]
        assert Counter(samples) == Counter(range(schedule.samples))
        assert samples == permutation(seed=seed, epoch=epoch, samples=schedule.samples)


@given(schedule=schedules, world=st.integers(1, 4), other=st.integers(1, 4), data=st.data())
def test_a_resumed_run_goes_on_where_it_was_also_with_other_ranks(
    schedule: Schedule, world: int, other: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, schedule.total_steps))
    whole = taken(schedule, seed=1, world=world)
    assert taken(schedule, seed=1, world=other, first_step=first) == {
        step: samples for step, samples in whole.items() if step >= first
    }


@given(schedule=schedules, world=st.integers(1, 7))
def test_the_weights_of_a_step_add_up_to_one_and_no_share_is_empty(schedule: Schedule, world: int) -> None:
    weights: Counter[int] = Counter()
    for rank in range(world):
        for share in shares(schedule, seed=0, first_step=0, rank=rank, world=world):
            assert len(share.samples) > 0
            weights[share.step] += share.weight  # type: ignore[assignment]  # Counter adds floats as well
    assert list(weights.values()) == pytest.approx([1.0] * schedule.total_steps)


@given(count=st.integers(0, 100), world=st.integers(1, 9))
def test_shares_are_contiguous_and_differ_by_at_most_one(count: int, world: int) -> None:
    parts = [range(count)[cut(count, rank=rank, world=world)] for rank in range(world)]
    assert [number for part in parts for number in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(permutation(seed=seed, epoch=epoch, samples=50)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert derive(0, "order", 1) != derive(0, "sample", 1)


@pytest.mark.parametrize(
    ("told", "steps"),
    [
        ({"epochs": 3, "batchSize": 10}, 12),
        ({"epochs": "3", "batchSize": "10"}, 12),
        ({"maxSteps": 7, "batchSize": 10}, 7),
        ({"epochs": 3, "maxSteps": 7, "batchSize": 10}, 7),
        ({"epochs": 1, "maxSteps": 70, "batchSize": 10}, 4),
    ],
)
def test_training_ends_after_epochs_or_steps_whichever_is_first(told: dict[str, object], steps: int) -> None:
    assert Hyperparameters.of(told).schedule(35).total_steps == steps
