"""Changes to a weights file that keep it a file: a number of its header or its descriptors becomes a worse one.

Bytes changed blindly mostly break the JSON, and everything behind it would never be reached.
"""

import json
import random
import struct
from copy import deepcopy
from typing import Any

WORSE: tuple[Any, ...] = (
    *(-1, 0, 1, 2, 3, 4, 8, 15, 16, 17, 64, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, 1 << 80),
    *(
        True,
        False,
        None,
        1.5,
        8.0,
        float("nan"),
        float("inf"),
        1e308,
        "",
        "w",
        "dense",
        "codes",
        "sign-codes",
        "blocks",
        "norm",
        "fold",
        "bfloat16",
        "I8",
        "U8",
        "F32",
        "BOOL",
    ),
    *([], {}, [1], [0, 0], [1 << 40, 1 << 40], [0, 1 << 62, 1 << 62], {"a": 1}, "\ud800", "\0"),
)
_METADATA, _KEY = "__metadata__", "modelmill"


def mutate(data: bytes, *, most: int, seed: int) -> bytes | None:
    """The file with one to three changes; None where it is no file to begin with."""
    chance = random.Random(seed)
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length].decode())
        rest = bytearray(data[8 + length :])
    except (ValueError, struct.error, RecursionError):
        return None
    if not isinstance(header, dict):
        return None
    for _ in range(chance.randint(1, 3)):
        _one(header, rest, chance)
    text = json.dumps(header).encode()
    made = struct.pack("<Q", len(text)) + text + bytes(rest)
    return made if len(made) <= most else None


def _one(header: dict[str, Any], rest: bytearray, chance: random.Random) -> None:
    metadata = header.get(_METADATA)
    told = metadata.get(_KEY) if isinstance(metadata, dict) else None
    kind = chance.random()
    if kind < 0.5 and isinstance(told, str):
        try:
            described = json.loads(told)
        except (ValueError, RecursionError):
            return
        _spoil(described, chance)
        header[_METADATA][_KEY] = json.dumps(described)
    elif kind < 0.85:
        _spoil(header, chance)
    elif rest:
        place = chance.randrange(len(rest))
        rest[place : place + 4] = chance.choice(
            (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\xc0\x7f", b"\0\0\x80\x7f", chance.randbytes(4))
        )


def _spoil(value: Any, chance: random.Random) -> None:
    """Changes, removes, copies or renames something somewhere below."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = chance.choice(keys)
        below = value[key]
        if isinstance(below, dict | list) and below and chance.random() < 0.8:
            value = below
            continue
        match chance.randrange(6):
            case 0:
                del value[key]
            case 1 if isinstance(value, dict):
                value[str(chance.choice(WORSE))] = deepcopy(below)
            case 2:
                value[key] = deepcopy(value[chance.choice(keys)])
            case 3 if type(below) is int:
                value[key] = below + chance.choice((-1, 1, 4, 64))
            case _:
                value[key] = deepcopy(chance.choice(WORSE))
        return
