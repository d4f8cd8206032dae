"""Makes a CPU image out of PyTorch's ordinary wheel, which is built for CUDA: 5.8 GB of files become about 1 GB.

PyPI has no wheel for CPUs alone, and the one it has does not load without NVIDIA's libraries. So, in this order:
  python slim.py requirements LOCK  prints the lock file's packages without those that only a GPU uses (never downloaded);
                                    with `without-torch` behind it also without torch, which `torch LOCK` prints alone;
  python slim.py shrink SITE        in site-packages: drops what no pod reads, takes GPU machine code out of torch's
                                    libraries, and puts stand-ins where torch names a library that is not there;
  python slim.py check              runs what the product uses of torch, and fails the image's build if any of it broke.
A stand-in's functions all answer 100, cudaErrorNoDevice: torch finds no GPU and never calls another. With a wheel that
was built for CPUs nothing is missing, and `shrink` leaves its libraries as they are.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from elf import X86_64, Library, shrink, stand_in

GPU_PACKAGES = re.compile(r"^(nvidia-|cuda-|triton\b)")
NO_DEVICE = 100
UNREAD = (
    "torch/include",
    "torch/share",
    "torch/bin/protoc*",
    "torch/bin/test_*",
    "torch/lib/*.a",
    "pyarrow/include",
    "pyarrow/tests",
)
# Loaded by name, only once there is a GPU.
ON_DEMAND = ("libtorch_cuda_linalg.so", "libcaffe2_nvrtc.so")
WORTH_IT = 1 << 20


def requirements(lock: str, *, with_torch: bool = True) -> Iterator[str]:
    """The lock file's entries, each with its hashes, without the packages that only a GPU uses."""
    for entry in re.split(r"\n(?=\S)", lock.strip()):
        if not GPU_PACKAGES.match(entry) and (with_torch or not entry.startswith("torch==")):
            yield entry


def torch_version(lock: str) -> str:
    """The lock file's torch without hashes: an index of CPU wheels has the same version in other files."""
    found = re.search(r"^torch==[^\s;]+", lock, re.M)
    if found is None:
        raise SystemExit("the lock file has no line torch==VERSION")
    return found.group()


def slim(site: Path) -> None:
    """Makes the installed packages small; prints what it did."""
    for pattern in UNREAD:
        for path in site.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    folder = site / "torch/lib"
    if not (folder / "libtorch_cuda.so").exists():
        print("torch is a CPU build: its libraries stay as they are")
        return
    for name in ON_DEMAND:
        (folder / name).unlink(missing_ok=True)
    paths = sorted(folder.glob("*.so*"))
    libraries = [Library(path) for path in paths]
    if any(library.machine != X86_64 for library in libraries):
        raise SystemExit("FLAVOR=cpu with PyPI's wheel is for x86-64: give TORCH_INDEX, an index with CPU wheels")
    missing = _missing(libraries)
    stand_ins = {name: _stand_in(name, libraries) for name in missing}
    del libraries
    for name, data in stand_ins.items():
        (folder / name).write_bytes(data)
        print(f"stand-in for {name}: {missing[name]}")
    for path in paths:
        if path.stat().st_size > WORTH_IT:
            print(f"{path.name}: {shrink(path) >> 20} MiB less")


def _missing(libraries: list[Library]) -> dict[str, str]:
    """The libraries that torch's name and that are neither among them nor in the system, each with who names it."""
    present = {library.path.name for library in libraries}
    found: dict[str, str] = {}
    for library in libraries:
        for name in library.needed():
            if name not in present and name not in found and not _in_system(name):
                found[name] = f"named by {library.path.name}"
    return found


def _in_system(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _stand_in(name: str, libraries: list[Library]) -> bytes:
    """A library with every function that torch's libraries ask of `name`."""
    prefix = re.split(r"[._]", name.removeprefix("lib"))[0].lower()
    wanted: dict[str, str | None] = {}
    for library in libraries:
        for symbol, here, source in library.symbols():
            if source is not None and source[0] == name:
                wanted[symbol] = source[1]
            elif source is None and not here and symbol.lower().startswith(prefix):
                wanted.setdefault(symbol, None)  # NCCL and some others have no symbol versions: the name tells
    # Functions that answer with a text would be read as an address.
    texts = [symbol for symbol in wanted if re.search(r"(String|ErrorName|ncclGetLastError)$", symbol)]
    return stand_in(name, versions=wanted, texts=texts, status=NO_DEVICE)


def check() -> None:
    """What training, compression and serving use of torch, once each; any failure ends the build."""
    import torch
    import torch.distributed as distributed
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10))
    images = torch.randn(4, 3, 8, 8)
    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        wrapped = DistributedDataParallel(model)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
            torch.autograd.backward(nn.functional.cross_entropy(wrapped(images), torch.tensor([1, 2, 3, 4])))
        torch.optim.AdamW(model.parameters()).step()
        distributed.destroy_process_group()
        model.eval()
        program = torch.export.export(model, (images,))
        torch.export.save(program, f"{folder}/program.pt2")
        again = torch.export.load(f"{folder}/program.pt2").module()
        _require(torch.allclose(again(images), model(images)), "an exported program gives other numbers")
    product = torch._int_mm(torch.ones(32, 32, dtype=torch.int8), torch.ones(32, 32, dtype=torch.int8))
    _require(bool((product == 32).all()), "an int8 product is wrong")
    _require(bool(torch.linalg.inv(torch.eye(3)).equal(torch.eye(3))), "linear algebra is wrong")
    _require(not torch.cuda.is_available() and torch.cuda.device_count() == 0, "there is a GPU")
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        print(f"asked for a GPU, torch {torch.__version__} says: {str(error).splitlines()[0]}")
    else:
        raise SystemExit("check failed: a tensor was made on a GPU")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"check failed: {otherwise}")


def main(arguments: list[str]) -> None:
    """See the module's docstring."""
    match arguments:
        case ["requirements", lock, *rest]:
            print("\n".join(requirements(Path(lock).read_text(), with_torch="without-torch" not in rest)))
        case ["torch", lock]:
            print(torch_version(Path(lock).read_text()))
        case ["shrink", site]:
            slim(Path(site))
        case ["check"]:
            check()
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
