"""`modelmill bench`: puts a server under load and says how it answers. `modelmill.cli.load` tells how it measures."""

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from modelmill.cli.load.plan import Plan, Protocol, packed

if TYPE_CHECKING:
    from modelmill.cli.load.request import Message
    from modelmill.cli.load.summary import Summary
    from modelmill.cli.load.target import Target

CONNECTIONS = 16
NEEDED = ("httpx", "numpy", "orjson", "httptools", "uvloop")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def bench(
    url: Annotated[str, typer.Argument(help="The server's root, as http://localhost:8080.", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="Name of the model.", show_default=False)],
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help=f"Closed loop: requests under way at all times ({CONNECTIONS})."),
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Open loop: requests a second, at random times.")] = None,
    duration: Annotated[str, typer.Option(metavar="TIME", help="How long to send: 500ms, 10s, 2m, 1h.")] = "10s",
    rows: Annotated[int, typer.Option(min=1, help="Rows in a request.")] = 1,
    input_: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=FILE", help="An input that numpy.save wrote, not made up. May be repeated."),
    ] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Size of the inputs' free dimensions other than the rows.")] = None,
    protocol: Annotated[Protocol, typer.Option(help="v2 sends binary tensors where the server takes them.")] = Protocol.v2,
    api_key_file: Annotated[Path | None, typer.Option(help="File whose first line is the API key.")] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM file with the authorities to trust for https.")] = None,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="When to give up an answer.")] = "60s",
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the figures; - is standard output.")] = None,
    allow_errors: Annotated[bool, typer.Option("--allow-errors", help="Exit with 0 although requests failed.")] = False,
) -> None:
    """Put a server under load and tell how it answers; exit code 1 when a request failed.

    \b
    modelmill bench http://localhost:8080 --model digits
    modelmill bench http://localhost:8080 --model digits --rate 200 --duration 1m
    modelmill bench http://localhost:8080 --model encoder --length 32 --input ids=ids.npy

    Inputs are made up from the model's metadata. With --rate, latencies count from when a request was due, so that
    waiting behind a server that stalls is not left out.
    """
    if concurrency is not None and rate is not None:
        raise typer.BadParameter(f"it cannot be combined with --concurrency {concurrency}", param_hint="--rate")
    seconds, files = _seconds(duration, option="--duration"), dict(map(_named_file, input_ or ()))
    _require_packages()
    from modelmill.cli.load.target import Target

    target = Target(
        url=url.rstrip("/"),
        model=model,
        protocol=protocol,
        api_key=_first_line(api_key_file) if api_key_file else None,
        ca=ca,
        timeout=_seconds(timeout, option="--timeout"),
    )
    message, count = target.request(files, rows=rows, length=length)
    if not allow_errors:
        target.check(message)
    plan = _plan(target, message, connections=concurrency or CONNECTIONS, rate=rate, seconds=seconds)
    load = f"{plan.connections} connections" if rate is None else f"{rate:g} requests a second"
    title = f"{model} at {target.url}: {message.form}, {load}, {count} {'row' if count == 1 else 'rows'} in each request"
    summary = _measured(plan, title=title, rows=count)
    _tell(summary, title=title, json_file=json_file)
    if not summary.total.ok or (summary.total.failed and not allow_errors):
        raise typer.Exit(1)


def _plan(target: "Target", message: "Message", *, connections: int, rate: float | None, seconds: float) -> Plan:
    parts = urlsplit(target.url)
    tls = parts.scheme == "https"
    return Plan(
        host=parts.hostname or "",
        port=parts.port or (443 if tls else 80),
        request=packed(message.http(target.url, api_key=target.api_key)),
        connections=connections,
        rate=rate,
        seconds=seconds,
        timeout=target.timeout,
        tls=tls,
        ca=str(target.ca) if target.ca else None,
    )


def _measured(plan: Plan, *, title: str, rows: int) -> "Summary":
    from modelmill.cli.load import sender
    from modelmill.cli.load.summary import Summary

    summary = Summary(rows=rows)
    with _drawn(title) as draw:
        for report in sender.reports(plan):
            summary.add(report)
            draw(summary)
    return summary


@contextmanager
def _drawn(title: str) -> "Iterator[Callable[[Summary], None]]":
    from rich.console import Console
    from rich.live import Live

    from modelmill.cli.load import table

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda summary: None
        return
    with Live(console=console, auto_refresh=False, transient=True) as view:
        yield lambda summary: view.update(table.live(summary, title=title), refresh=True)


def _tell(summary: "Summary", *, title: str, json_file: Path | None) -> None:
    from modelmill.cli.load import table

    as_json = json.dumps(summary.to_dict(), indent=2)
    if to_stdout := str(json_file) == "-":
        typer.echo(as_json)
    elif json_file:
        json_file.write_text(as_json + "\n")
    typer.echo(table.final(summary, title=title), err=to_stdout)


def _require_packages() -> None:
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ImportError(f"modelmill bench needs {', '.join(missing)}: pip install 'modelmill[runtime]'")


def _seconds(text: str, *, option: str) -> float:
    match = _DURATION.fullmatch(text.strip())
    if match is None or (seconds := float(match[1]) * _UNIT_SECONDS[match[2] or "s"]) <= 0:
        raise typer.BadParameter(f"{text!r} is no duration: write 500ms, 10s, 2m or 1h", param_hint=option)
    return seconds


def _named_file(text: str) -> tuple[str, Path]:
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise typer.BadParameter(f"{text!r} must be NAME=FILE", param_hint="--input")
    return name, Path(path)


def _first_line(path: Path) -> str:
    key = path.read_text().partition("\n")[0].strip()
    if not key:
        raise typer.BadParameter(f"the first line of {path} is empty: it must be the API key", param_hint="--api-key-file")
    return key
