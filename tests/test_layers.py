"""The rooms build on each other from the ground up: imports go down only.

Every import counts, inside functions and under TYPE_CHECKING too. The one exemption: three packages re-export
public names lazily from wherever they are defined.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "altgrad_cli"
ROOMS = (
    "reexports",
    "errors",
    "deadline",
    "files",
    "notation",
    "formats",
    "config",
    "rounding",
    "surgery",
    "metrics",
    "updates",
    "subjects",
    "checkpoints",
    "training",
    "runs",
    "sweeps",
    "claims",
    "forensics",
    "reporting",
    "observing",
    "quantization",
    "commands",
    "__main__",
)
LAZY_REEXPORTS = {"__init__.py", "quantization/__init__.py", "training/__init__.py"}


def imported_modules(source: str) -> Iterator[str]:
    """Every module that ``source`` names in an import, absolute, however deep in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}: this test reads absolute ones"
            module = node.module or ""
            # `from altgrad_cli import data` names the room in its second half.
            yield from (
                (f"{module}.{alias.name}" for alias in node.names) if module == "altgrad_cli" else [module]
            )
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__") and node.args:
            text = ast.unparse(node.args[0]).lstrip("f").strip("'\"")
            yield text.partition("{")[0]


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def upward_imports(room: str, source: str) -> list[str]:
    """The imports in ``source``, a file of ``room``, that reach a higher room."""
    height = ROOMS.index(room)
    found = []
    for module in imported_modules(source):
        first, _, rest = module.partition(".")
        target = rest.partition(".")[0]
        if first == "altgrad_cli" and target in ROOMS and ROOMS.index(target) > height:
            found.append(module)
    return found


def _files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "_configs" not in path.parts)


def _room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_file_lies_in_a_known_room() -> None:
    unknown = {_room_of(path) for path in _files()} - {*ROOMS, "__init__"}
    assert not unknown


def test_imports_go_down_only() -> None:
    wrong = {
        str(path.relative_to(PACKAGE)): upward
        for path in _files()
        if path.relative_to(PACKAGE).as_posix() not in LAZY_REEXPORTS
        and (upward := upward_imports(_room_of(path), path.read_text(encoding="utf-8")))
    }
    assert not wrong


def test_the_package_itself_loads_no_room() -> None:
    code = "import sys, altgrad_cli; print(*(name for name in sys.modules if 'altgrad_cli.' in name))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == ["altgrad_cli.reexports"]


def test_formats_need_nothing_but_python() -> None:
    """Start-up time: the command that prints a format must not wait for an array library."""
    outside = {
        name
        for path in (PACKAGE / "formats").rglob("*.py")
        for name in imported_modules(path.read_text(encoding="utf-8"))
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "altgrad_cli"}
    }
    assert not outside


@pytest.mark.parametrize(
    "source",
    [
        "import altgrad_cli.training.engine",
        "from altgrad_cli.training import engine",
        "from altgrad_cli import training",
        "def f():\n    from altgrad_cli.training.engine import train",
        "if TYPE_CHECKING:\n    import altgrad_cli.commands.app",
        "importlib.import_module('altgrad_cli.training')",
        "import_module(f'altgrad_cli.commands.{name}')",
    ],
)
def test_an_upward_import_would_be_found(source: str) -> None:
    assert upward_imports("formats", source)


def test_a_downward_import_is_not_complained_about() -> None:
    assert not upward_imports("training", "from altgrad_cli.formats import parse_format\nimport torch, yaml")
