"""A load generator: N keep-alive connections that POST one body in a closed loop, counted by answer.

    python -m benchmarks.load URL --connections 32 --seconds 30 --body request.json

A closed loop sends the next request when the last one was answered: it shows throughput and failures, and hides
queueing that independent clients would feel. Nothing is retried; a broken connection counts as `broken` and is made
anew. SIGINT ends a run early, with its report. Standard library only: it runs in any pod that has Python.
"""

import argparse
import asyncio
import json
import signal
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

BROKEN = "broken"
REFUSED = "refused"
PAUSE_AFTER_FAILURE = 0.05
ANSWER_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    seconds: float
    ok: int
    failed: int
    codes: dict[str, int] = field(default_factory=dict)
    """Answers by HTTP status; `refused` and `broken` are connections."""
    errors: tuple[str, ...] = ()
    """What happened to those, each kind of error once, with the second in which it came first."""
    rps: float = 0.0
    p50_millis: float | None = None
    p99_millis: float | None = None

    def line(self) -> str:
        latency = "-" if self.p50_millis is None else f"p50 {self.p50_millis:.1f} ms  p99 {self.p99_millis:.1f} ms"
        failures = ", ".join(f"{code}: {count}" for code, count in sorted(self.codes.items()) if code != "200")
        return f"{self.seconds:6.1f} s  {self.ok} ok  {self.failed} failed  {self.rps:.0f}/s  {latency}  {failures}".rstrip()


class Load:
    """One run. `report()` may be asked at any time; `stop()` ends it early, after the requests under way."""

    def __init__(self, url: str, *, body: bytes, connections: int, headers: dict[str, str] | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the URL {url!r} must be http://HOST[:PORT]/PATH or https://...")
        self._host = parts.hostname
        self._tls = _trusting() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        lines = {"Host": parts.netloc, "Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._request = f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body
        self._connections = connections
        self._codes: Counter[str] = Counter()
        self._errors: dict[str, float] = {}
        self._latencies: list[float] = []
        self._began = self._ended = time.perf_counter()
        self._deadline = float("inf")

    def stop(self) -> None:
        self._deadline = 0.0

    async def run(self, seconds: float) -> Report:
        self._began = time.perf_counter()
        self._deadline = self._began + seconds
        await asyncio.gather(*(self._client() for _ in range(self._connections)))
        self._ended = time.perf_counter()
        return self.report()

    def report(self) -> Report:
        seconds = max((self._ended if self._ended > self._began else time.perf_counter()) - self._began, 1e-9)
        ok = sum(count for code, count in self._codes.items() if code.startswith("2"))
        ordered = sorted(self._latencies)
        return Report(
            seconds=seconds,
            ok=ok,
            failed=self._codes.total() - ok,
            codes=dict(self._codes),
            errors=tuple(f"{second:.1f} s: {error}" for error, second in self._errors.items()),
            rps=ok / seconds,
            p50_millis=_percentile(ordered, 0.50),
            p99_millis=_percentile(ordered, 0.99),
        )

    async def _client(self) -> None:
        while time.perf_counter() < self._deadline:
            try:
                reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
            except OSError as error:
                await self._failed(REFUSED, error)
                continue
            try:
                while time.perf_counter() < self._deadline and await self._exchange(reader, writer):
                    pass
            except (OSError, ValueError, EOFError, TimeoutError) as error:
                await self._failed(BROKEN, error)
            finally:
                writer.close()

    async def _failed(self, code: str, error: Exception) -> None:
        self._codes[code] += 1
        self._errors.setdefault(f"{code}: {type(error).__name__}: {error}", time.perf_counter() - self._began)
        await asyncio.sleep(PAUSE_AFTER_FAILURE)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection may be used again."""
        began = time.perf_counter()
        writer.write(self._request)
        async with asyncio.timeout(ANSWER_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            status, headers = _parsed(head)
            await reader.readexactly(int(headers.get("content-length", "0")))
        self._codes[status] += 1
        if status.startswith("2"):
            self._latencies.append(time.perf_counter() - began)
        else:
            await asyncio.sleep(PAUSE_AFTER_FAILURE)
        return headers.get("connection", "").lower() != "close"


def _trusting() -> ssl.SSLContext:
    """Any certificate will do: this measures, it keeps no secrets."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _parsed(head: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return first.split(" ")[1], {name.lower(): value.strip() for name, _, value in pairs}


def _percentile(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else None


async def _tell(load: Load, *, every: float, write: Callable[[str], object]) -> None:
    while True:
        await asyncio.sleep(every)
        write(load.report().line())


def _live(text: str) -> None:
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"{text:<100}", end=end, file=sys.stderr, flush=True)


async def _run(arguments: argparse.Namespace) -> Report:
    headers = dict(pair.split(":", 1) for pair in arguments.header)
    load = Load(arguments.url, body=arguments.body.read_bytes(), connections=arguments.connections, headers=headers)
    # Ended early, it still finishes the requests under way and reports.
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, load.stop)
    teller = asyncio.create_task(_tell(load, every=arguments.every, write=_live))
    report = await load.run(arguments.seconds)
    teller.cancel()
    print(f"{report.line():<100}", file=sys.stderr)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description="POSTs one body over and over, and counts the answers.")
    parser.add_argument("url")
    parser.add_argument("--body", type=Path, required=True, help="file with the JSON to send")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between live lines")
    parser.add_argument("--json", metavar="FILE", help="where the report goes, - is standard output")
    arguments = parser.parse_args()
    report = asyncio.run(_run(arguments))
    if arguments.json == "-":
        print(json.dumps(asdict(report)))
    elif arguments.json:
        Path(arguments.json).write_text(json.dumps(asdict(report)))
    return 0 if report.ok and not report.failed else 1


if __name__ == "__main__":
    sys.exit(main())
