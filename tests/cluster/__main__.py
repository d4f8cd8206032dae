"""A Kubernetes cluster for tests and the demo: `python -m tests.cluster up|down|status|env|...`.

Which one: the kubeconfig context that MODELMILL_CONTEXT names; else kind where a Docker engine answers; else the
built-in cluster of a bare Linux machine. Only kind and the built-in one are ours to start and stop.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from tests.cluster import build, builtin, foreign, packages
from tests.cluster.addons import Addons
from tests.cluster.controlplane import control_plane
from tests.cluster.process import ClusterError


def up() -> None:
    """Brings the chosen cluster up."""
    (builtin.up if foreign.kind_of_cluster() == "built-in" else foreign.up)()


def down() -> None:
    """Takes down what `up` brought."""
    (builtin.down if foreign.kind_of_cluster() == "built-in" else foreign.down)()


def status() -> None:
    """Tells which cluster is used and how it is."""
    kind = foreign.kind_of_cluster()
    print(f"cluster: {kind}")
    print(builtin.describe() if kind == "built-in" else foreign.describe())


def env() -> None:
    """Prints the shell lines that point kubectl and helm at the cluster."""
    kubeconfig = builtin.plane().kubeconfig if foreign.kind_of_cluster() == "built-in" else foreign.kubeconfig()
    path = build.search_path()
    print(f"export KUBECONFIG={shlex.quote(str(kubeconfig))}\nexport PATH={shlex.quote(path)}")


def tools() -> None:
    """Builds and installs every program without starting anything."""
    packages.install()
    build.build()


def run_control_plane() -> None:
    """Runs a control plane of its own until interrupted."""
    with control_plane(audit=True) as plane:
        print(f"export KUBECONFIG={plane.kubeconfig}\n# logs: {plane.folder}; ends with ^C", flush=True)
        threading.Event().wait()


def _addons() -> Addons:
    if foreign.kind_of_cluster() != "built-in":
        raise ClusterError("only the built-in cluster has a pool of volumes and GPUs that are played")
    return builtin.addons()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    simple: dict[str, Callable[[], None]] = {
        "up": up,
        "down": down,
        "status": status,
        "env": env,
        "tools": tools,
        "control-plane": run_control_plane,
    }
    for name, act in simple.items():
        commands.add_parser(name, help=act.__doc__).set_defaults(act=lambda _, act=act: act())
    recycle = commands.add_parser("recycle-volumes", help="Wipes released volumes and offers them again.")
    recycle.set_defaults(act=lambda _: print(f"{_addons().recycle_volumes()} volumes recycled"))
    gpus = commands.add_parser("gpus", help="Makes the node offer this many GPUs (0: none).")
    gpus.add_argument("count", type=int)
    gpus.set_defaults(act=lambda given: _addons().set_gpus(given.count))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        given.act(given)
    except ClusterError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; call again to go on")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
