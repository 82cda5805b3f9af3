"""`altgrad configs`: the configurations that ship with altgrad."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from altgrad_cli.commands.console import data_console
from altgrad_cli.commands.json_output import print_json

SCHEMA = "altgrad.configs/1"

EXAMPLES = ("altgrad configs", "altgrad configs --json")


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
        print_json(SCHEMA, {"configs": rows})
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
