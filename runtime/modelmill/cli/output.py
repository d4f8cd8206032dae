"""What commands print: a table for people, or JSON for programs."""

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import typer


class Format(StrEnum):
    table = "table"
    json = "json"


def show(rows: Sequence[dict[str, Any]], *, columns: Sequence[str], output: Format) -> None:
    """Rows with camelCase keys; the table shows the named columns, JSON everything."""
    if output is Format.json:
        typer.echo(json.dumps(list(rows), indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.upper())
    for row in rows:
        table.add_row(*(_text(row.get(column)) for column in columns))
    console = Console()
    if not console.is_terminal:  # a pipe has no width: nothing may be cut off
        console.width = 1000
    console.print(table)


def _text(value: Any) -> str:
    if value is None or value == []:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def size(count: int) -> str:
    """Bytes as people write them."""
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
