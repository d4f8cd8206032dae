"""The process of a serving pod: `python -m modelmill.serve`, told what to do by MODELMILL_SERVICE.

SIGTERM drains and exits 0. A model that cannot be loaded leaves its reason as the termination message, from where the
operator shows it in the ModelService's status, and exits 64 when only a change by the user can help, else 1.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import uvloop

from modelmill import failures
from modelmill.contract import codec, names, result
from modelmill.contract.servicefile import VLLM, ServiceFile
from modelmill.observe import logs
from modelmill.serve import loader
from modelmill.serve.drain import PROPAGATION_SECONDS
from modelmill.serve.server import Server

log = logging.getLogger(__name__)


def service_of_environment() -> ServiceFile:
    text = os.environ.get(names.ENV_SERVICE)
    if text is None:
        raise codec.ContractError(
            f"the environment variable {names.ENV_SERVICE} is not set to a service file, as the operator does"
        )
    return codec.loads(ServiceFile, text)


async def serve(service: ServiceFile, *, hosts: Sequence[str] = (), propagation_seconds: float = PROPAGATION_SECONDS) -> None:
    """Serves until SIGTERM or SIGINT, on all addresses unless told; raises when the model cannot be served."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = _server(service)
    try:
        await server.start(hosts)
        await _until_stopped(server, stop, propagation_seconds=propagation_seconds)
    finally:
        await server.close()


def _server(service: ServiceFile) -> "Served":
    if service.engine is None:
        return Server(service, load=loader.load)
    if service.engine != VLLM:
        raise codec.ContractError(f"engine: {service.engine!r} is not {VLLM!r}: use a newer runtime image")
    from modelmill.serve.vllm.server import VllmServer

    return VllmServer(service)


class Served(Protocol):
    """What this process runs, whoever computes the answers."""

    service: ServiceFile
    port: int

    async def start(self, hosts: Sequence[str] = ()) -> None: ...

    async def load(self) -> None:
        """Returns when requests are answered; raises what went wrong."""

    async def failed(self) -> Exception:
        """Waits until nothing can be served any more."""

    async def drain(self, *, propagation_seconds: float) -> int: ...

    async def close(self) -> None: ...


async def _until_stopped(server: Served, stop: asyncio.Event, *, propagation_seconds: float) -> None:
    loop, service = asyncio.get_running_loop(), server.service
    stopping = loop.create_task(stop.wait())
    loading = loop.create_task(server.load())
    await asyncio.wait((stopping, loading), return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        loading.result()
        # What was loaded stays: a garbage collection that looks at all of it stops every request meanwhile.
        gc.collect()
        gc.freeze()
        log.info("%s version %d (%s) is ready on port %d", service.model, service.version, service.variant, server.port)
        failing = loop.create_task(server.failed())
        await asyncio.wait((stopping, failing), return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            raise failing.result()
        failing.cancel()
        left = await server.drain(propagation_seconds=propagation_seconds)
        log.info("drained, %d requests left", left)


def report(error: Exception, *, path: str = names.PATH_TERMINATION) -> int:
    """Leaves the reason as the termination message; returns the exit code."""
    log.error("serving is not possible", exc_info=error)
    failure = failures.describe(error)
    fatal = failure.fatal or isinstance(error, codec.ContractError)
    # The kubelet puts the file there; where it is not, this is no pod.
    if Path(path).exists():
        outcome = result.StageResult(stage="serve", ok=False, reason=failure.reason, message=failure.message, fatal=fatal)
        result.write(outcome, path=path)
    return names.EXIT_FATAL if fatal else 1


def main() -> int:
    logs.configure()
    try:
        uvloop.run(serve(service_of_environment()))
    except Exception as error:
        return report(error)
    return names.EXIT_OK


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Not sys.exit: a thread that still computes (a hung model) would crash the interpreter's orderly end.
    os._exit(code)
