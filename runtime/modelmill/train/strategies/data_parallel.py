"""DataParallel: every rank holds the whole model and takes its share of each global batch (DDP).

Gradients are averaged by gloo on CPUs and NCCL on GPUs. One rank alone needs no process group: the same arithmetic,
without the collective.
"""

import datetime
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, slots=True, kw_only=True)
class DataParallel:
    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls, *, timeout_seconds: float) -> "DataParallel":
        """Meets the other ranks that the launchers started; torchrun's environment tells where."""
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
            torch.cuda.set_device(device)
        if world > 1:
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_seconds))
        return cls(rank=rank, world=world, device=device)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over the ranks."""
        if self.world == 1 or not any(parameter.requires_grad for parameter in module.parameters()):
            return module
        on_cpu = self.device.type == "cpu"
        # On CPUs resuming is exact to the bit. DDP otherwise lays out its buckets anew after a run's first step, and
        # with three ranks or more the layout decides in which order a gradient's parts are added up.
        return DistributedDataParallel(module, device_ids=None if on_cpu else [self.device.index], find_unused_parameters=on_cpu)

    def scale(self, weight: float) -> float:
        """What turns the mean loss of a share into a term whose average over the ranks is the global batch's mean."""
        return weight * self.world

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Adds up a small tensor over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def agree(self, number: int) -> int:
        """Rank 0's number, on every rank."""
        return int(self.sum(torch.tensor(number if self.rank == 0 else 0, dtype=torch.int64, device=self.device)).item())

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()
