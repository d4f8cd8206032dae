"""Our server on a GPU beside a loop of CUDA graphs in process; no peer takes part. Everything else is measured on processors."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from benchmarks.serving.figures import Figure, ratio
from benchmarks.serving.ours import BF16_MODEL, CNN_BF16_MODEL, variant
from benchmarks.serving.process import Process
from benchmarks.serving.rounds import CONNECTIONS, IN_PROCESS, Limit, tell
from benchmarks.serving.server import Place, ready, started
from benchmarks.serving.workloads import WORKLOADS

NAME = "gpu_vs_graph_loop"
MODELS: Mapping[str, str] = {"cnn": CNN_BF16_MODEL, "encoder": BF16_MODEL}
VISIBLE = "CUDA_VISIBLE_DEVICES"
ABSENT = "no GPU here: not measured"


def there() -> bool:
    """Asked of torch in a process of its own: this one never imports it."""
    ask = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return subprocess.run((sys.executable, "-c", ask), check=False).returncode == 0


def hidden() -> dict[str, str]:
    """From here on no process that is started sees a GPU, except with what this returns in its environment."""
    before = os.environ.get(VISIBLE, "0")
    os.environ[VISIBLE] = ""
    return {VISIBLE: before}


def vs_graph_loop(place: Place, *, env: Mapping[str, str], rounds: int, seconds: int) -> Figure:
    """Rows a second of the server with the most connections by those of the loop; the worse of both workloads."""
    each = [_of(name, place, env=env, rounds=rounds, seconds=seconds) for name in MODELS]
    return min(each, key=lambda figure: figure.value)


def _of(name: str, place: Place, *, env: Mapping[str, str], rounds: int, seconds: int) -> Figure:
    peer = variant(f"modelmill, {MODELS[name]}, GPU", MODELS[name], env=env)
    ours, loops = [], []
    with started(peer, WORKLOADS[name], place) as server, _loop(name, place, env) as loop:
        ready(server)
        for number in range(rounds):
            ours.append(server.measure(connections=CONNECTIONS[-1], seconds=seconds).rps)
            loops.append(loop.rate(seconds))
            tell(f"{name} on a GPU: round {number + 1} of {rounds}: {ours[-1]:.0f}/s, graphs in a loop {loops[-1]:.0f}/s")
    return ratio(NAME, ours, loops, against=f"worst: {name}, batch {loop.batch}")


@contextmanager
def _loop(name: str, place: Place, env: Mapping[str, str]) -> Iterator[Limit]:
    command = (sys.executable, "-m", "benchmarks.serving.graph_loop", f"file://{place.folder}/registry", MODELS[name], name)
    settled = {**IN_PROCESS, **env}
    process = Process(f"{name}-graphs", command, core=place.server_core, env=settled, folder=place.folder, talks=True)
    try:
        yield Limit(process)
    finally:
        process.stop()
