"""`altgrad ls` and `altgrad configs`: what lies in a folder, and what ships."""

from __future__ import annotations

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
_WIDE = 100


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
        say(f"no run below {folder}; make one: altgrad train smoke")


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
