"""`altgrad ls`: the runs and sweeps below a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from altgrad_cli.commands.console import data_console, talk_console
from altgrad_cli.commands.json_output import print_json
from altgrad_cli.notation import decimals, format_value, printable

if TYPE_CHECKING:
    from altgrad_cli.sweeps.listing import Listed

SCHEMA = "altgrad.ls/1"

EXAMPLES = ("altgrad ls", "altgrad ls runs", "altgrad ls runs/sweep-20251121-090000 --json")
_STYLES = {"damaged": "red", "collapsed": "yellow", "live": "green"}
_WIDE = 80


def ls(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where to look, two levels deep (default: here).")
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
        data_console().print(_table(listed, wide=data_console().width >= _WIDE))
    else:
        talk_console().print(f"no run below {folder}; altgrad train smoke makes one", soft_wrap=True)


def _table(listed: list[Listed], *, wide: bool) -> Table:

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("run or sweep", overflow="fold")
    table.add_column("outcome", overflow="fold")
    for heading in ("steps", "loss", "val loss", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    if wide:
        table.add_column("written", no_wrap=True)
    for each in listed:
        outcome = each.outcome + (f" ({each.detail})" if each.detail else "")
        cells: list[Text | str] = [
            Text(printable(str(each.path))),
            Text(printable(outcome), _STYLES.get(each.outcome, "")),
            format_value(each.steps),
            decimals(each.final_loss, 3),
            decimals(each.val_loss, 3),
            _size(each.bytes),
        ]
        table.add_row(*cells, *([f"{each.written:%Y-%m-%d %H:%M}"] if wide else []))
    return table


def _size(count: int) -> str:
    """``0 B``, ``12 kB``, ``3.4 MB``: powers of 1,000."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}" if size < 9.95 and unit != "B" else f"{size:.0f} {unit}"
