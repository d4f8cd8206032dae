"""A server under measurement: started, checked against the right answers, then only run while it is its turn."""

import http.client
import random
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.serving import load, venvs, wires
from benchmarks.serving.load import Load
from benchmarks.serving.peers.peer import Launch, Peer, Site
from benchmarks.serving.process import Process, machine_cpu_seconds, settle
from benchmarks.serving.workloads import CHECKED, Workload

START_SECONDS = 120.0
WARM_UP_SECONDS = 1
CHECKS_AT_ONCE = 16


class WrongAnswer(RuntimeError):
    """A server answered something else than the model does in process: none of its figures mean anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What all servers of a run share."""

    folder: Path
    """Holds what `publish` left."""
    server_core: int
    load_core: int


class Server:
    def __init__(self, peer: Peer, process: Process, launch: Launch, *, port: int, workload: Workload, place: Place) -> None:
        self.name = peer.name
        self._tolerance = workload.tolerance if peer.tolerance is None else peer.tolerance
        self.process = process
        self.port = port
        self._launch, self._workload, self._place = launch, workload, place
        self._requests = place.folder / "requests" / f"{workload.name}-{peer.name}"
        self._prepared = [wires.request(launch.wire, launch.path, row) for row in workload.all_rows()]

    def ask(self, index: int) -> tuple[int, bytes, dict[str, str]]:
        """One prepared request on a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(self._prepared[index])
            answer = http.client.HTTPResponse(connection, method="POST")
            answer.begin()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}

    def wait(self, *, pause: float = 0.05) -> None:
        """Until the first good answer."""
        end, last = time.monotonic() + START_SECONDS, "nothing"
        while time.monotonic() < end:
            if not self.process.alive():
                raise self.process.failed(f"it ended before its first answer ({last})")
            try:
                status, content, _ = self.ask(0)
            except (OSError, http.client.HTTPException) as error:
                last = repr(error)
            else:
                if status == http.HTTPStatus.OK:
                    return
                last = f"{status} {content[:300]!r}"
                if status == http.HTTPStatus.INTERNAL_SERVER_ERROR:  # while they load they refuse, or say so otherwise
                    raise self.process.failed(f"its first answer is {last}")
            time.sleep(pause)
        raise self.process.failed(f"no good answer within {START_SECONDS:.0f} s ({last})")

    def check(self) -> None:
        """Many at once, so that they share batches; raises WrongAnswer."""
        expected = np.load(self._place.folder / f"{self._workload.name}.npy")
        with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:
            for index, error in enumerate(pool.map(lambda i: self._error(i, expected[i]), range(min(CHECKED, len(expected))))):
                if error > self._tolerance:
                    raise WrongAnswer(
                        f"{self.name}, {self._workload.name}: row {index} is off by {error:.2g} of the largest value"
                    )

    def write_requests(self) -> None:
        """For the load to send in turn."""
        load.write_requests(self._requests, self._prepared)

    def _error(self, index: int, expected: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> float:
        status, content, headers = self.ask(index)
        if status != http.HTTPStatus.OK:
            raise WrongAnswer(f"{self.name}, {self._workload.name}: row {index} was answered {status} {content[:300]!r}")
        given = wires.answer(self._launch.wire, content, headers)
        if given.shape != expected.shape or not np.isfinite(given).all():
            return float("inf")
        return float(np.abs(given - expected).max() / np.abs(expected).max())

    def measure(self, *, connections: int, seconds: int) -> Load:
        self.process.resume()
        try:
            self.load(connections=connections, seconds=WARM_UP_SECONDS)
            settle(self.process)
            began, machine, own = time.monotonic(), machine_cpu_seconds(), self.process.cpu_seconds()
            told = self.load(connections=connections, seconds=seconds)
            spent, own = time.monotonic() - began, self.process.cpu_seconds() - own
            others = (machine_cpu_seconds() - machine - own) / spent - told.busy
            return replace(told, others=max(0.0, others))
        except load.Broken as error:
            raise self.process.failed(str(error)) from error
        finally:
            # Idle first: Triton, stopped in the middle of an execution, takes its own backend for dead when it goes on.
            settle(self.process)
            self.process.pause()

    def load(self, *, connections: int, seconds: int) -> Load:
        return load.run(
            self._requests,
            port=self.port,
            connections=connections,
            seconds=seconds,
            core=self._place.load_core,
            stamp=self._workload.slow,
        )


@contextmanager
def started(peer: Peer, workload: Workload, place: Place) -> Iterator[Server]:
    """The process is there; `wait` and `check` are the caller's. Raises NotToBeHad."""
    if lacking := [program for program in peer.programs if shutil.which(program) is None]:
        raise venvs.NotToBeHad(f"needs {', '.join(lacking)}, not on this machine")
    python = Path(sys.executable) if not peer.environment else venvs.environment(peer.environment, peer.requirements)
    name = peer.name.replace(",", "").replace(" ", "-")
    folder = place.folder / "servers" / f"{workload.name}-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port = _free_port()
    weights = place.folder / f"{workload.name}.safetensors"
    launch = peer.launch(Site(workload=workload, port=port, folder=folder, python=python, weights=weights))
    process = Process(f"{workload.name}-{name}", launch.command, core=place.server_core, env=launch.env, folder=folder)
    try:
        yield Server(peer, process, launch, port=port, workload=workload, place=place)
    finally:
        process.stop()


def ready(server: Server) -> Server:
    """Checked, and stopped until its turn."""
    server.wait()
    server.check()
    server.write_requests()
    server.process.pause()
    return server


def _free_port() -> int:
    """Free, and so are the next ones: servers take neighbours for administration, metrics and gRPC."""
    while True:
        port = random.randrange(20000, 30000)
        try:
            for offset in range(5):
                with socket.socket() as candidate:
                    candidate.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        return port
