"""Every room says what lies in it, holds few files, stands in no circle, and has its names to itself."""

from __future__ import annotations

import ast
import graphlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.test_layers import LAZY_REEXPORTS, PACKAGE, imported_modules

MOST_FILES = 12
LARGER: dict[str, int] = {}
"""Rooms that still hold more, and how many exactly; a number here only ever falls."""
MIRRORED = {
    "codes": "codes of a format; how they are counted in training",
    "comparison": "its page shows what it holds",
    "diagnosis": "its page shows what it holds",
    "document": "of a report; of a diagnosis",
    "eager": "a rounding, and a pass, as torch runs it",
    "engine": "of one run; of a sweep of runs",
    "foreign": "files of others; their diagnosis",
    "grid": "what a tensor is rounded onto; how weights lie on theirs, as metrics",
    "model": "the network's shape as configured; the network",
    "passes": "how a pass is run; how it is measured",
    "report": "the command and what it calls",
    "rounding": "the room; what it does to a tensor, as metrics",
    "run": "configured; carried out; shown",
    "runs": "the room; its records as a report's evidence",
    "spec": "of a format; of a metric",
    "update": "an update in training; its measures",
    "updates": "the room; how they are measured in training",
}
"""A name that stands twice -> what its bearers are. It is for mirrored rooms; each entry less is a gain."""
_ENTRY = re.compile(r"^ *((?:[a-z0-9_]+, )*[a-z0-9_]+) {2,}\S")


def rooms() -> list[Path]:
    """Every folder of modules below the package; the shipped configs are none."""
    return sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


def contents(room: Path) -> set[str]:
    """The names of the modules and rooms that lie directly in ``room``."""
    modules = {path.stem for path in room.glob("*.py") if not path.stem.startswith("__")}
    return modules | {path.parent.name for path in room.glob("*/__init__.py")}


def listed(docstring: str) -> list[str]:
    """The names in the table of contents: lines of one name or several, two spaces, and what it is."""
    rows = [match[1] for line in docstring.splitlines() if (match := _ENTRY.match(line))]
    return [name for row in rows for name in row.split(", ")]


def _docstring(room: Path) -> str:
    return ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8")), clean=False) or ""


def _id(room: Path) -> str:
    return room.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("room", [room for room in rooms() if contents(room)], ids=_id)
def test_the_table_of_contents_is_true(room: Path) -> None:
    assert sorted(listed(_docstring(room))) == sorted(contents(room))


def misjudged(files: Mapping[str, int], larger: Mapping[str, int]) -> dict[str, int]:
    """Room -> files, of rooms that hold more than they may, or less than ``larger`` still says they do."""
    crowded = {room for room, count in files.items() if count > MOST_FILES}
    return {room: files.get(room, 0) for room in crowded | set(larger) if files.get(room) != larger.get(room)}


def test_a_room_holds_few_files() -> None:
    files = {_id(room): sum(not path.stem.startswith("__") for path in room.glob("*.py")) for room in rooms()}
    assert misjudged(files, LARGER) == {}


def test_a_crowded_room_and_a_stale_ceiling_would_be_found() -> None:
    assert misjudged({"a": 12, "b": 14}, {"b": 14}) == {}
    assert misjudged({"a": 13}, {}) == {"a": 13}
    larger = {"a": 14, "b": 14, "c": 9, "gone": 13}
    assert misjudged({"a": 15, "b": 13, "c": 9}, larger) == {"a": 15, "b": 13, "gone": 0}


def test_a_table_of_contents_is_read_name_by_name() -> None:
    text = 'A room.\n\nstep, state  the parts\n    engine  the run\nA sentence  with two spaces.\n"""'
    assert listed(text) == ["step", "state", "engine"]


def test_the_map_names_files_that_exist() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text("utf-8")
    named = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`", text)
    assert len(named) > 20
    missing = [
        name for name in named if not any((root / name).exists() for root in (PACKAGE, PACKAGE.parent))
    ]
    assert not missing


# --- circles --------------------------------------------------------------------------------------------


def module_name(path: Path) -> str:
    """``altgrad_cli.config.run`` of the path to that file; a room's name of its ``__init__``."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, known: Iterable[str]) -> set[str]:
    """The modules among ``known`` that ``source`` imports, anywhere, under TYPE_CHECKING too."""
    names = set(imported_modules(source))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names & set(known)


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The modules of one circle of ``graph`` (module -> what it imports); [] where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [str(name) for name in error.args[1]]
    return []


def _modules() -> dict[str, Path]:
    return {module_name(path): path for path in PACKAGE.rglob("*.py") if "_configs" not in path.parts}


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = _modules()
    graph = {
        name: imports_of(path.read_text("utf-8"), modules) - {name}
        for name, path in modules.items()
        if path.relative_to(PACKAGE).as_posix() not in LAZY_REEXPORTS
    }
    assert circle(graph) == []


@pytest.mark.parametrize(
    "source",
    [
        "import a.b",
        "from a import b",
        "from a.b import c",
        "def f():\n    from a.b import c",
        "if TYPE_CHECKING:\n    from a.b import c",
    ],
)
def test_a_circle_would_be_found(source: str) -> None:
    imported = imports_of(source, ["a.b", "a.c"])
    assert imported == {"a.b"}
    assert circle({"a.c": imported, "a.b": ["a.c"]})


# --- names ----------------------------------------------------------------------------------------------


def twice(places: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Name -> places, of (name, place) pairs, for every name that stands in several."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for name, place in places:
        by_name[name].append(place)
    return {name: where for name, where in by_name.items() if len(where) > 1}


def public_classes(source: str) -> list[str]:
    """The classes that a module defines at its top and does not keep to itself."""
    body = ast.parse(source).body
    return [n.name for n in body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]


def _classes_twice() -> dict[str, list[str]]:
    sources = {module: path.read_text("utf-8") for module, path in _modules().items()}
    return twice((name, module) for module, source in sources.items() for name in public_classes(source))


def _modules_twice() -> dict[str, list[str]]:
    return twice((module.rpartition(".")[2], module) for module in _modules())


def test_a_class_has_its_name_to_itself() -> None:
    assert _classes_twice().keys() <= MIRRORED.keys()


def test_a_module_has_its_name_to_itself() -> None:
    assert _modules_twice().keys() <= MIRRORED.keys()


def test_what_is_called_mirrored_stands_twice() -> None:
    assert MIRRORED.keys() <= _classes_twice().keys() | _modules_twice().keys()


def test_a_name_that_stands_twice_would_be_found() -> None:
    source = "class One: ...\nclass _Own: ...\ndef f():\n    class Inner: ..."
    assert public_classes(source) == ["One"]
    assert twice([("One", "a"), ("One", "b"), ("Two", "a")]) == {"One": ["a", "b"]}
