"""A plain DistributedDataParallel program: nothing in it knows of Modelmill.

torchrun --nproc-per-node 2 train.py --epochs 3
"""

import argparse
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler


class TwoRings(Dataset):
    """Points of two rings with some noise: class 0 is the inner one, class 1 the outer one."""

    def __init__(self, size, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(2, (size,), generator=generator)
        angles = torch.rand(size, generator=generator) * 2 * torch.pi
        radii = 1.0 + self.labels + 0.1 * torch.randn(size, generator=generator)
        self.points = torch.stack([radii * angles.cos(), radii * angles.sin()], dim=1)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.points[index], self.labels[index]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(2, 64)
        self.fc2 = nn.Linear(64, 64)
        self.fc3 = nn.Linear(64, 2)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05)
    args = parser.parse_args()

    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, local_rank = dist.get_rank(), int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    print(f"rank {rank} of {dist.get_world_size()} on {device}")

    torch.manual_seed(0)
    dataset = TwoRings(4096)
    sampler = DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size=args.batch_size, sampler=sampler)

    model = DDP(Net().to(device), device_ids=[local_rank] if device.type == "cuda" else None)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)

    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        total, correct = 0.0, 0
        for points, labels in loader:
            points, labels = points.to(device), labels.to(device)
            optimizer.zero_grad()
            output = model(points)
            loss = F.cross_entropy(output, labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
            correct += (output.argmax(dim=1) == labels).sum().item()
        if rank == 0:
            print(f"epoch {epoch}: loss {total / len(sampler):.4f}, accuracy {correct / len(sampler):.3f}")

    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
