"""A server at one and a half times its capacity, among clients that misbehave: `make soak`, ten minutes; one in CI.

It must not crash nor grow, and every request must be answered or refused with the right code, and be counted once.
"""

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from tests.soak.clients import DRIBBLERS, Clients
from tests.soak.server import CAPACITY

SECONDS = float(os.environ.get("SECONDS", "60"))
OVERLOAD = 1.5
WARM = 0.2
"""The share of the time after which memory must not grow any more: two minutes of ten."""
GROWTH_MIB = 4.0 if SECONDS >= 300 else 8.0
"""What a leak of ten bytes a request would add in ten minutes. In the first two, buffers still find their sizes."""


@dataclass(slots=True)
class Soaked:
    port: int
    admin: int
    process: "subprocess.Popen[str]"
    memory: list[float] = field(default_factory=list)
    """MiB resident, once a second."""

    def watch(self) -> None:
        status = Path(f"/proc/{self.process.pid}/status")
        while self.process.poll() is None:
            found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
            if found:
                self.memory.append(int(found[1]) / 1024)
            time.sleep(1)

    def counted(self) -> Counter[int]:
        """Requests by status, as the server's metrics have them."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        codes: Counter[int] = Counter()
        for code, value in re.findall(r'modelmill_serve_requests_total{code="(\d+)",protocol="\w+"} (\S+)', text):
            codes[int(code)] += int(float(value))
        return codes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soaked]:
    command = [sys.executable, "-m", "tests.soak.server"]
    log = tmp_path_factory.mktemp("soak") / "log"
    with log.open("w") as to, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=to, text=True) as process:
        assert process.stdout
        try:
            soaked = Soaked(process=process, **json.loads(process.stdout.readline()))
            threading.Thread(target=soaked.watch, daemon=True).start()
            yield soaked
        finally:
            ended = process.poll()
            process.terminate()
    if ended is not None:
        print(log.read_text()[-10_000:])


def test_overload_and_bad_clients_leave_the_server_as_it_was(server: Soaked) -> None:
    clients = Clients(server.port, rate=OVERLOAD * CAPACITY)
    uvloop.run(clients.run(SECONDS))
    told, counted = clients.told, server.counted()
    print(f"\n{told.sent:,} requests: {dict(sorted(counted.items()))}, {told.aborted} hung up, {told.dribbled} dribbled")
    assert server.process.poll() is None, "the server ended"
    assert not told.wrong, (len(told.wrong), told.wrong[:5])
    _everybody_is_counted(told.codes, counted, sent=told.sent, aborted=told.aborted)
    assert told.dribbled >= DRIBBLERS, "nobody who dribbles may keep a connection"
    # At this load there must be both: what the model can do, and refusals at once for the rest.
    assert counted[200] > 0.6 * CAPACITY * SECONDS
    assert counted[503] > 0.05 * told.sent
    _memory_stays(server.memory)


def _everybody_is_counted(codes: Counter[int], counted: Counter[int], *, sent: int, aborted: int) -> None:
    """Those who hung up were cancelled, or had their answer written before that was known."""
    counted.pop(408, None)
    assert sum(counted.values()) == sent
    assert sum(codes.values()) == sent - aborted
    for code in codes:
        assert codes[code] <= counted[code] <= codes[code] + aborted, code
    assert counted[499] <= aborted


def _memory_stays(memory: list[float]) -> None:
    settled = memory[int(WARM * len(memory)) :]
    part = max(3, len(settled) // 5)
    before, after = statistics.median(settled[:part]), statistics.median(settled[-part:])
    print([round(m, 1) for m in memory[::10]])
    print(f"{before:.1f} MiB after {WARM:.0%} of the time, {after:.1f} MiB at the end")
    assert after - before < GROWTH_MIB, memory
