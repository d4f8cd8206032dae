"""Which samples every step of a run takes: a pure function of seed, step and world size.

Each epoch walks one seeded permutation of all samples in global batches; the last batch of an epoch is smaller when
the samples do not divide (none is dropped). A global batch is cut into contiguous shares, one a rank, whose sizes
differ by at most one. So any number of ranks takes the same samples in the same step, and a run resumed at step N,
also with another number of ranks, goes on exactly where it was: the step is the whole position.

Randomness follows the same rule. What happens to a sample (augmentation) is seeded by epoch and sample, what happens
in a step (dropout) by step and rank; no generator's state needs to be saved.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from modelmill.train.hyperparameters import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One rank's part of one global batch."""

    step: int
    """Of the run, from 0."""
    epoch: int
    samples: tuple[int, ...]
    """Sample numbers; never empty, see `weight`."""
    weight: float
    """The share's part of the global batch. 0 for a rank without a share: it runs one sample that does not count,
    because its peers wait for it in the collective."""


def derive(seed: int, *what: int | str) -> int:
    """A 63-bit seed for one purpose, independent of the seeds for others."""
    digest = hashlib.blake2b(repr((seed, *what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def permutation(*, seed: int, epoch: int, samples: int) -> list[int]:
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    order: list[int] = torch.randperm(samples, generator=generator).tolist()
    return order


def cut(count: int, *, rank: int, world: int) -> slice:
    """The rank's contiguous part of `count` things; sizes differ by at most one, the first ranks take the larger."""
    size, larger = divmod(count, world)
    start = rank * size + min(rank, larger)
    return slice(start, start + size + (1 if rank < larger else 0))


def shares(schedule: Schedule, *, seed: int, first_step: int, rank: int, world: int) -> Iterator[Share]:
    """The rank's shares from `first_step` to the end of the run."""
    epoch, order = -1, [0]
    for step in range(first_step, schedule.total_steps):
        if step // schedule.steps_per_epoch != epoch:
            epoch = step // schedule.steps_per_epoch
            order = permutation(seed=seed, epoch=epoch, samples=schedule.samples)
        start = step % schedule.steps_per_epoch * schedule.batch_size
        batch = order[start : start + schedule.batch_size]
        own = batch[cut(len(batch), rank=rank, world=world)]
        yield Share(step=step, epoch=epoch, samples=tuple(own or batch[:1]), weight=len(own) / len(batch))
