"""How this process takes memory from the system: once, and then it keeps it.

A module allocates and frees its activations with each batch. glibc gives blocks of that size back to the system at
once, which then clears each page anew; a convolutional network feels that. It also has a pool for each thread,
so that what one has freed, another has to ask for again.
"""

import ctypes
import logging

log = logging.getLogger(__name__)
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""mallopt(3)'s numbers."""
SETTINGS = {ARENA_MAX: 1, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: (1 << 31) - 1}
"""32 MiB is the most that glibc allows for blocks of the pool."""


def keep() -> None:
    """For the whole process; call it before torch is imported. Where there is no glibc, nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not all([mallopt(name, value) for name, value in SETTINGS.items()]):
        log.info("the C library does not let memory be kept: larger models will be slower")
