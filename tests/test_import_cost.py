"""``altgrad --help`` and ``altgrad inspect-format`` load only what typer and rich bring along.

How long that takes is measured by ``benchmarks/startup.py``.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from altgrad_cli.commands.app import COMMANDS

LIGHT = {
    "altgrad_cli",
    "typer",
    "rich",
    "shellingham",
    "annotated_doc",
    "typing_extensions",
    # Typer loads pydantic by itself to read annotated options.
    "annotated_types",
    "pydantic",
    "pydantic_core",
    "typing_inspection",
}
"""The packages that typer and rich bring with them."""
LIGHT_LINES = [
    ["--help"],
    ["--version"],
    *([name, "--help"] for name in COMMANDS),
    *(
        [["inspect-format", "E7M0"], ["inspect-format", "e3m4", "--json"]]
        if "inspect-format" in COMMANDS
        else []
    ),
]

_PROBE = """
import sys
of_python = set(sys.modules)  # such as Debian's sitecustomize
{before}
from altgrad_cli.commands.app import app
try:
    app({arguments!r}, prog_name="altgrad")
except SystemExit as end:
    assert not end.code, end.code
packages = {{name.partition(".")[0] for name in sys.modules.keys() - of_python}} - sys.stdlib_module_names
print(*sorted(name for name in packages if not name.startswith("_")), file=sys.stderr)
"""


def loaded_by(arguments: list[str], before: str = "") -> list[str]:
    """The packages beyond ``LIGHT`` that one run of the command line has loaded, in a process of its own."""
    probe = _PROBE.format(before=before, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=120
    )
    return sorted(set(done.stderr.splitlines()[-1].split()) - LIGHT)


@pytest.mark.parametrize("arguments", LIGHT_LINES, ids=" ".join)
def test_nothing_heavy_is_loaded(arguments: list[str]) -> None:
    assert loaded_by(arguments) == []


def test_it_would_be_noticed() -> None:
    assert "torch" in loaded_by(["--version"], before="import torch")
