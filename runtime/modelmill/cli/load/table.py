"""How a run is shown: a table that is drawn anew each second, and the text at its end."""

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from modelmill.cli.load.summary import Figures, Summary

SPARKLINE_WIDTH = 40
LIMITED = "the process that sends is the limit, not the server: lower the load, or run several of them"


def live(summary: Summary, *, title: str) -> Group:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("SECOND", justify="right")
    for column in ("RPS", "P50 MS", "P90 MS", "P99 MS", "MAX MS", "SENDER CPU"):
        table.add_column(column, justify="right")
    table.add_column("ERRORS")
    for ended, figures in summary.recent:
        table.add_row(f"{ended:.1f}", *_cells(figures))
    table.add_section()
    table.add_row("all", *_cells(summary.total))
    limited = bool(summary.recent) and summary.recent[-1][1].limited_by_sender
    return Group(Text(title), table, Text(LIMITED if limited else ""))


def _cells(figures: Figures) -> list[str]:
    times = [_millis(figures.millis(share)) for share in (0.5, 0.9, 0.99, 1.0)]
    return [f"{figures.rps:,.0f}", *times, f"{figures.cpu_share:.0%}", _failures(figures)]


def final(summary: Summary, *, title: str) -> str:
    total = summary.total
    lines = [
        title,
        f"answers    {total.ok:,} in {total.seconds:.1f} s: {total.rps:,.0f}/s, {total.rps * summary.rows:,.0f} rows/s",
    ]
    if total.ok:
        shares = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
        lines.append("latency    " + "  ".join(f"{name} {_millis(total.millis(share))}" for name, share in shares) + " ms")
        least, most = total.latencies.least * 1000, total.latencies.most * 1000
        lines.append(f"           {_millis(least)} {total.latencies.sparkline(SPARKLINE_WIDTH)} {_millis(most)} ms")
    lines.append(f"errors     {_failures(total)}")
    lines += [f"           {code} said: {' '.join(text.split())}" for code, text in sorted(summary.texts.items())]
    lines.append(f"sender     {total.cpu_share:.0%} of a core" + (f": {LIMITED}" if total.limited_by_sender else ""))
    if total.late.count:
        late = [_millis((total.late.percentile(share) or 0.0) * 1000) for share in (0.5, 0.99)]
        lines.append(f"           woke up late by p50 {late[0]}  p99 {late[1]} ms, which the latencies contain")
    return "\n".join(lines)


def _failures(figures: Figures) -> str:
    return ", ".join(f"{code}: {count:,}" for code, count in figures.failures.items()) or "none"


def _millis(millis: float | None) -> str:
    """Three digits that mean something."""
    if millis is None:
        return "-"
    return f"{millis:.0f}" if millis >= 100 else f"{millis:.1f}" if millis >= 10 else f"{millis:.2f}"
