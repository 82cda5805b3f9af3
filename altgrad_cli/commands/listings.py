"""`altgrad ls` and `altgrad configs`: what lies in a folder, and what ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from altgrad_cli.commands.console import data_console, print_json, say
from altgrad_cli.notation import decimals, format_value, printable

if TYPE_CHECKING:
    from altgrad_cli.sweeps.listing import Listed

SCHEMA = "altgrad.ls/1"
CONFIGS_SCHEMA = "altgrad.configs/1"

EXAMPLES = (
    "altgrad ls",
    "altgrad ls runs",
    "altgrad ls runs/sweep-20251121-090000 --json",
    "altgrad configs",
    "altgrad configs --json",
)
_STYLES = {"damaged": "red", "collapsed": "yellow", "live": "green"}
_COLUMNS: tuple[tuple[str, Callable[[Listed], str], int], ...] = (
    ("steps", lambda each: format_value(each.steps), 50),
    ("loss", lambda each: decimals(each.final_loss, 3), 70),
    ("val loss", lambda each: decimals(each.val_loss, 3), 50),
    ("size", lambda each: _size(each.bytes), 70),
    ("written", lambda each: f"{each.written:%Y-%m-%d %H:%M}", 100),
)
"""Heading, cell, and the least width of a terminal that shows it."""


def ls(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", show_default=False, help="Where to look, two levels deep (default: here)."
        ),
    ] = Path(),
    json: Annotated[bool, typer.Option("--json", help="The list as one JSON document on stdout.")] = False,
) -> None:
    """List runs and sweeps, newest first: outcome, loss, size on disk.

    A sweep's own folder lists its runs. A run that a process is writing is live; one whose log has no ending
    can be resumed. What cannot be read is listed as damaged, with the reason.
    """
    from altgrad_cli.sweeps.listing import list_folder

    listed = list_folder(folder)
    if json:
        print_json(SCHEMA, {"folder": str(folder), "entries": [each.to_json() for each in listed]})
    elif listed:
        data_console().print(_table(listed, width=data_console().width))
    else:
        say(f"no run below {folder}; make one: altgrad train smoke")


def _table(listed: list[Listed], *, width: int) -> Table:
    columns = [(heading, cell) for heading, cell, least in _COLUMNS if width >= least]
    table = Table(box=None, header_style="bold", pad_edge=False)
    longest = max(len(printable(str(each.path))) for each in listed)
    table.add_column("run or sweep", overflow="fold", min_width=min(longest, width // 2))
    table.add_column("outcome", overflow="fold")
    for heading, _ in columns:
        table.add_column(heading, justify="left" if heading == "written" else "right", no_wrap=True)
    for each in listed:
        outcome = each.outcome + (f" ({each.detail})" if each.detail else "")
        table.add_row(
            Text(printable(str(each.path))),
            Text(printable(outcome), _STYLES.get(each.outcome, "")),
            *(cell(each) for _, cell in columns),
        )
    return table


def _size(count: int) -> str:
    """``0 B``, ``12 kB``, ``3.4 MB``: powers of 1,000."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}" if size < 9.95 and unit != "B" else f"{size:.0f} {unit}"


def configs(
    json: Annotated[bool, typer.Option("--json", help="The list as one JSON document on stdout.")] = False,
) -> None:
    """List the shipped configs, each with what it is; `altgrad train NAME --dry-run` shows every key."""
    from altgrad_cli.config.loading import shipped_configs

    rows = [
        {"name": name, "description": _description(path.read_text("utf-8")), "path": str(path)}
        for name, path in shipped_configs().items()
    ]
    if json:
        print_json(CONFIGS_SCHEMA, {"configs": rows})
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for row in rows:
        table.add_row(row["name"], row["description"])
    data_console().print(table)


def _description(text: str) -> str:
    """The sentence that a config opens with: the first of its leading comment."""
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    sentence, end, _ = " ".join(comment).partition(". ")
    return sentence + end.strip()
