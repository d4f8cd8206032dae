"""Live views of the two kinds on a terminal; one line a change where there is no terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.demo.kube import Object, condition


class JobView:
    """A TrainingJob: stages as they come, and a bar while it trains."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress
        self._task = progress.add_task("train", total=None, details="")
        self._stage = self._why = ""

    def show(self, job: Object) -> None:
        status = job.get("status", {})
        stage, progress = status.get("stage", ""), status.get("progress", {})
        if stage != self._stage:
            self._stage = stage
            self._console.print(f"  stage [bold]{stage}[/]")
        why = (condition(job, "WorkersReady") or {}).get("message", "") if stage == "train" else ""
        if why and why != self._why:
            self._why = why
            self._console.print(f"    {why}", style="dim", highlight=False)
        details = f"loss {progress.get('loss', '-')}  {progress.get('samplesPerSecond', '-')} samples/s"
        self._progress.update(self._task, completed=progress.get("step", 0), total=progress.get("totalSteps"), details=details)


@contextmanager
def job_view(console: Console) -> Iterator[JobView]:
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[details]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield JobView(console, progress)


def variants_table(job: Object) -> Table:
    """Every variant with what was measured on held-out data, and whether it passed."""
    entries: list[dict[str, Any]] = sorted(job["status"]["variants"], key=lambda entry: -entry.get("bytes", 0))
    dense = next(entry for entry in entries if entry["name"] == "dense")
    title = f"{job['spec']['model']['name']} version {job['status']['published']['version']}, on held-out data"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    metrics = sorted(dense["metrics"])
    for heading in ("variant", *metrics, "bytes", "ratio", "ms/row", "gates"):
        table.add_column(heading, justify="left" if heading == "variant" else "right", no_wrap=heading != "gates")
    for entry in entries:
        measured = [f"{float(entry['metrics'][metric]):.4f}" if metric in entry.get("metrics", {}) else "-" for metric in metrics]
        size = entry.get("bytes")
        table.add_row(
            entry["name"],
            *measured,
            f"{size:,}" if size else "-",
            f"{size / dense['bytes']:.2f}" if size else "-",
            f"{float(entry['latencyMillis']):.3f}" if "latencyMillis" in entry else "-",
            "passed" if entry.get("passed") else f"refused: {entry.get('reason', '')}",
        )
    return table
