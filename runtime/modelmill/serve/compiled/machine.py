"""What a processor can do, in the words of Linux; x86-64 alone so far."""

from enum import StrEnum
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


class Level(StrEnum):
    """Of instructions: the x86-64 psABI's levels 3 and 4."""

    avx2 = "avx2"
    avx512 = "avx512"


_AVX2 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"})
NEEDED = {Level.avx2: _AVX2, Level.avx512: _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}}


def instructions(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """That this machine's processor has; none where it is not known."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(plain(flag) for flag in flags.split())


def plain(name: str) -> str:
    """Linux writes avx512_bf16 and amx_tile, compilers avx512bf16 and amx-tile."""
    return name.replace("_", "").replace("-", "")


def levels() -> list[Level]:
    """That this machine has, the most capable first."""
    here = instructions()
    return [level for level in reversed(Level) if NEEDED[level] <= here]
