"""What the operator does to 1,000 new TrainingJobs, at rest, and after a kill -9: `make bench-operator JSON=file`.

On etcd, API server and controller manager alone (no node: pods stay Pending). Latency is from the API server's answer to
the creation until one metadata-only watch tells of the first child. Writes are counted in the API server's audit log by
user name. The limit is the machine: one API server shares two cores with etcd, the operator and this program.
"""

import argparse
import asyncio
import json
import ssl
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.cluster.controlplane import ControlPlane, control_plane
from tests.control_plane.operators import REAL, Operator, operator, training_job

ROOT = Path(__file__).parents[1]
NAMESPACE, USER = "bench", "operator"
JOBS_PATH = f"/apis/modelmill.io/v1alpha1/namespaces/{NAMESPACE}/trainingjobs"
PODS_PATH = f"/api/v1/namespaces/{NAMESPACE}/pods"
METADATA_ONLY = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
# Kubeflow Trainer with JobSet, 1,000 at 50/s on a machine of this kind: the figures to beat.
PEER = {"p50": 18.4, "p99": 33.9, "writes": 7.0, "rss": 201.5, "failover": 19.0}


@dataclass(kw_only=True)
class Burst:
    created: dict[str, float] = field(default_factory=dict)
    first_child: dict[str, float] = field(default_factory=dict)

    def latencies(self) -> list[float]:
        return sorted(max(0.0, self.first_child[name] - at) for name, at in self.created.items())


async def main(arguments: argparse.Namespace) -> None:
    with ExitStack() as stack:
        plane = stack.enter_context(control_plane(audit=True))
        plane.kubectl("apply", "-f", str(ROOT / "crds"))
        plane.kubectl("create", "namespace", NAMESPACE)
        kubeconfig = plane.kubeconfig_for(USER, groups=["system:masters"])
        flags = ("--report-url", "http://127.0.0.1:1")
        leader = stack.enter_context(operator(kubeconfig, namespace=NAMESPACE, module=REAL, flags=flags))
        must = await measure(plane, leader, stack, kubeconfig, flags, arguments)
    show(must, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps({"must": must}, indent=1) + "\n")


async def measure(
    plane: ControlPlane,
    leader: Operator,
    stack: ExitStack,
    kubeconfig: Path,
    flags: tuple[str, ...],
    arguments: argparse.Namespace,
) -> list[dict[str, Any]]:
    burst = Burst()
    async with session(plane) as api:
        watching = asyncio.create_task(watch_children(api, burst))
        await asyncio.sleep(0.5)
        await create_all(api, burst, count=arguments.jobs, rate=arguments.rate)
        await all_seen(burst, seconds=300)
        await at_rest(plane)
        writes = len(operator_writes(plane))
        rss = peak_rss_mib(leader)
        quiet_from = len(operator_writes(plane))
        await asyncio.sleep(arguments.quiet)
        quiet = len(operator_writes(plane)) - quiet_from
        stack.enter_context(operator(kubeconfig, namespace=NAMESPACE, module=REAL, flags=flags))
        seconds = await failover(api, burst, leader)
        watching.cancel()
    latencies = burst.latencies()
    percentiles = statistics.quantiles(latencies, n=100)
    return [
        figure("burst_child_p50_seconds", percentiles[49], "s"),
        figure("burst_child_p99_seconds", percentiles[98], "s"),
        figure("writes_per_job", writes / arguments.jobs, "writes"),
        figure("operator_rss_mib", rss, "MiB"),
        figure("quiet_writes", quiet, "writes"),
        figure("failover_seconds", seconds, "s"),
    ]


def figure(name: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "value": round(value, 3), "unit": unit}


def session(plane: ControlPlane) -> aiohttp.ClientSession:
    """The administrator's connections."""
    folder = plane.kubeconfig.parent
    context = ssl.create_default_context(cafile=str(plane.authority.root.crt))
    context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
    return aiohttp.ClientSession(plane.server, connector=aiohttp.TCPConnector(ssl=context, limit=0))


async def create_all(api: aiohttp.ClientSession, burst: Burst, *, count: int, rate: float) -> None:
    """Creates at a fixed rate, whatever the answers take."""
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            tasks.create_task(create(api, burst, f"job-{number}"))


async def create(api: aiohttp.ClientSession, burst: Burst, name: str) -> None:
    async with api.post(JOBS_PATH, json=training_job(name, namespace=NAMESPACE)) as answer:
        assert answer.status == 201, await answer.text()
        burst.created[name] = time.perf_counter()


async def watch_children(api: aiohttp.ClientSession, burst: Burst) -> None:
    async for event in events(api, PODS_PATH):
        name = event["object"]["metadata"]["labels"].get("modelmill.io/trainingjob")
        if event["type"] == "ADDED" and name:
            burst.first_child.setdefault(name, time.perf_counter())


async def events(api: aiohttp.ClientSession, path: str) -> AsyncIterator[dict[str, Any]]:
    timeout = aiohttp.ClientTimeout(total=None)
    accept = {"Accept": METADATA_ONLY["Accept"].replace("List", "")}
    async with api.get(path, params={"watch": "true"}, headers=accept, timeout=timeout) as stream:
        async for line in stream.content:
            yield json.loads(line)


async def all_seen(burst: Burst, *, seconds: float) -> None:
    end = time.perf_counter() + seconds
    while len(burst.first_child) < len(burst.created):
        if time.perf_counter() > end:
            raise SystemExit(f"only {len(burst.first_child)} of {len(burst.created)} jobs got a child in {seconds:g} s")
        await asyncio.sleep(0.2)


async def at_rest(plane: ControlPlane) -> None:
    """Until the operator has not written for 5 s."""
    before = -1
    while (now := len(operator_writes(plane))) != before:
        before = now
        await asyncio.sleep(5)


def operator_writes(plane: ControlPlane) -> list[dict[str, Any]]:
    """Its Lease aside."""
    return [event for event in plane.writes(user=USER) if event.get("objectRef", {}).get("resource") != "leases"]


def peak_rss_mib(of: Operator) -> float:
    assert of.process is not None
    lines = Path(f"/proc/{of.process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


async def failover(api: aiohttp.ClientSession, burst: Burst, leader: Operator) -> float:
    """Seconds from kill -9 of the leader until a resource created right after has its first child."""
    await asyncio.sleep(3)
    leader.kill9()
    killed = time.perf_counter()
    name = "after"
    await create(api, burst, name)
    await all_seen(burst, seconds=60)
    seconds = burst.first_child[name] - killed
    for known in (burst.created, burst.first_child):
        del known[name]
    return seconds


def show(must: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    limits = {
        "burst_child_p50_seconds": (2, PEER["p50"]),
        "burst_child_p99_seconds": (8, PEER["p99"]),
        "writes_per_job": (5, PEER["writes"]),
        "operator_rss_mib": (150, PEER["rss"]),
        "quiet_writes": (0, 0),
        "failover_seconds": (6, PEER["failover"]),
    }
    print(f"{arguments.jobs} TrainingJobs at {arguments.rate:g}/s; quiet for {arguments.quiet:g} s")
    print(f"{'':28}{'measured':>10}{'limit':>8}   Kubeflow Trainer + JobSet, earlier, same kind of machine")
    for entry in must:
        limit, peer = limits[entry["name"]]
        print(f"{entry['name']:28}{entry['value']:>10}{limit:>8}   {peer}")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.operator_burst", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=50.0, help="creations a second")
    parser.add_argument("--quiet", type=float, default=300.0, help="seconds to count writes at rest")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    asyncio.run(main(parse(sys.argv[1:])))
