"""Ports for servers that tests start."""

import random
import socket

# Property tests seed the common generator: two processes would draw the same ports.
_chance = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """Free ports below those that the kernel gives to outgoing connections: a stopped server finds its own free again."""
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            candidate = socket.socket()
            try:
                candidate.bind(("127.0.0.1", _chance.randrange(20000, 30000)))
                held.append(candidate)
            except OSError:
                candidate.close()
        return [candidate.getsockname()[1] for candidate in held]
    finally:
        for candidate in held:
            candidate.close()


def free_port() -> int:
    return free_ports(1)[0]
