"""The ``--json`` of every command: one document on stdout, strict JSON, with its schema's name first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer


def print_json(schema: str, body: Mapping[str, Any]) -> None:
    """Write ``{"schema": schema, **body}`` to stdout.

    ``schema`` is ``altgrad.<command>/<version>``; the version rises when a key changes its meaning or goes.
    Null means not measured; non-finite numbers are the strings "NaN", "Infinity", "-Infinity".
    """
    from altgrad_cli.training.events import to_json_value

    document = {"schema": schema, **to_json_value(body)}
    typer.echo(json.dumps(document, indent=2, allow_nan=False))
