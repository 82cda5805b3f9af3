"""Reads YAML files into one nested dictionary of texts, remembering the file and line of every key.

Scalars stay texts: what ``6e-4``, ``1_000``, ``no`` or ``null`` mean is decided by the declared type of the
field they land in (``coercion``), never by YAML's own guesses. ``extends: base.yaml`` lays a file over
another; sections are merged key by key, everything else (lists too) is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from altgrad_cli.deadline import within
from altgrad_cli.errors import ConfigError

EXTENDS = "extends"
COMMAND_LINE = "command line"
"""The origin of a key that was set by an override."""
_PIPE_SECONDS = 5.0
_MAX_BYTES = 1 << 20  # far beyond any configuration; a data file given by mistake is not read whole


class Quoted(str):
    """A text that stood in quotes: ``"null"`` is a word, ``null`` is not."""

    __slots__ = ()


def is_null_word(value: object) -> bool:
    """Whether ``value`` is one of YAML's unquoted words for nothing: ``null``, ``~`` or an empty text."""
    return isinstance(value, str) and not isinstance(value, Quoted) and value.lower() in ("null", "~", "")


def quoted(value: object) -> object:
    """``value`` (plain, nested) with every text taken as it is, as if it had stood in quotes."""
    if isinstance(value, Mapping):
        return {str(key): quoted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [quoted(item) for item in value]
    return Quoted(value) if isinstance(value, str) else value


@dataclass(slots=True)
class ConfigTree:
    """Nested plain values, and where each dotted key was last set."""

    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """``file:line: key`` for a dotted key, from the nearest enclosing key whose place is known."""
        known = key
        while known and known not in self.origins:
            known = known.rpartition(".")[0]
        return f"{self.origins[known]}: {key}" if known else key

    def put(self, key: str, value: object, origin: str) -> None:
        """Set one dotted key, creating the sections on its way."""
        names = key.split(".")
        values = {names[-1]: value}
        for name in reversed(names[:-1]):
            values = {name: values}
        origins = {".".join(names[:depth]): origin for depth in range(1, len(names) + 1)}
        self.lay_over(ConfigTree(values, origins))

    def lay_over(self, upper: ConfigTree) -> None:
        """Merge ``upper`` into this tree; its values win."""

        def merge(lower: dict[str, object], values: Mapping[str, object], prefix: str) -> None:
            for name, value in values.items():
                key = f"{prefix}{name}"
                below = lower.get(name)
                if isinstance(value, dict) and isinstance(below, dict):
                    self.origins.setdefault(key, upper.origins[key])
                    merge(below, value, f"{key}.")
                    continue
                emptied = is_null_word(value) and upper.origins[key] != COMMAND_LINE
                if emptied and isinstance(below, dict):
                    continue  # a section whose lines are all commented out changes nothing
                lower[name] = value
                kept = {k: v for k, v in self.origins.items() if not f"{k}.".startswith(f"{key}.")}
                self.origins = kept | {
                    k: v for k, v in upper.origins.items() if f"{k}.".startswith(f"{key}.")
                }

        merge(self.values, upper.values, "")


def read_tree(path: Path, find_base: Callable[[str, Path], Path]) -> ConfigTree:
    """The tree of ``path`` laid over everything it extends.

    ``find_base(name, folder)`` says which file an ``extends: name`` in ``folder`` means. Raises ConfigError
    for what cannot be read, is not YAML, or extends itself.
    """
    chain: list[tuple[Path, ConfigTree]] = []
    following: Path | None = path
    while following is not None:
        if any(_same_file(following, earlier) for earlier, _ in chain):
            names = " -> ".join(shown(p) for p in [*(p for p, _ in chain), following])
            raise ConfigError(f"the configuration extends itself: {names}", where=shown(path))
        tree = parse_yaml(_read_text(following), shown(following))
        chain.append((following, tree))
        base = tree.values.pop(EXTENDS, None)
        if base is None:
            break
        where = tree.where(EXTENDS)
        if not isinstance(base, str) or not base.strip():
            raise ConfigError("extends takes one file name", where=where, allowed="extends: base.yaml")
        try:
            following = find_base(base.strip(), following.parent)
        except ConfigError as error:
            error.where = where
            raise
    merged = ConfigTree()
    for _, tree in reversed(chain):
        merged.lay_over(tree)
    return merged


def parse_yaml(text: str, source: str) -> ConfigTree:
    """The tree of one YAML document, whose root must be a mapping (or nothing)."""
    node = _compose(text, source)
    tree = ConfigTree()
    if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
        return tree
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError("a configuration is a mapping of keys to values", where=_at(source, node))
    tree.values = _mapping(node, source, "", tree.origins)
    return tree


def parse_flow(text: str, source: str) -> object:
    """The value of a YAML fragment such as ``[a, b]`` or ``{pattern: "*.c_proj", format: bf16}``."""
    node = _compose(text, source)
    return None if node is None else _plain(node, source, "", {})


def shown(path: Path) -> str:
    """``path`` as a reader would type it: relative where it lies below the working directory."""
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except (ValueError, OSError, RuntimeError):  # the last is Python 3.11's word for a loop of links
        return str(path)


class _Composer(yaml.BaseLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not supported: use extends", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


def _compose(text: str, source: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Composer)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        what = ", ".join(part for part in (error.problem, error.context) if part)
        raise ConfigError(f"not valid YAML: {what}", where=place) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {str(error).splitlines()[0]}", where=source) from None
    except RecursionError:
        raise ConfigError("not a configuration: nested too deeply", where=source) from None


def _plain(node: yaml.Node, source: str, key: str, origins: dict[str, str]) -> object:
    if not node.tag.removeprefix("tag:yaml.org,2002:").isalpha():
        raise ConfigError(f"YAML tags are not supported: {node.tag}", where=_at(source, node))
    if isinstance(node, yaml.ScalarNode):
        return Quoted(node.value) if node.style else node.value
    prefix = f"{key}." if key else ""
    if isinstance(node, yaml.SequenceNode):
        items = []
        for number, item in enumerate(node.value):
            origins[f"{prefix}{number}"] = _at(source, item)
            items.append(_plain(item, source, f"{prefix}{number}", origins))
        return items
    return _mapping(node, source, key, origins)


def _mapping(node: yaml.Node, source: str, key: str, origins: dict[str, str]) -> dict[str, object]:
    prefix = f"{key}." if key else ""
    values: dict[str, object] = {}
    for name_node, value_node in node.value:
        if not isinstance(name_node, yaml.ScalarNode) or not name_node.value:
            raise ConfigError("a key must be a word", where=_at(source, name_node))
        name = str(name_node.value)
        if name in values:
            raise ConfigError(f"the key {prefix}{name} stands here twice", where=_at(source, name_node))
        origins[f"{prefix}{name}"] = _at(source, name_node)
        values[name] = _plain(value_node, source, f"{prefix}{name}", origins)
    return values


def _at(source: str, node: yaml.Node) -> str:
    return f"{source}:{node.start_mark.line + 1}" if node.start_mark else source


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one == other


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_BYTES + 1)


def _read_text(path: Path) -> str:
    where = shown(path)
    try:
        if path.is_dir():
            inside = sorted(item.name for item in path.iterdir() if item.suffix in (".yaml", ".yml"))
            raise ConfigError(
                "a folder was given where a configuration file is expected",
                where=where,
                hint=f"it holds: {', '.join(inside)}" if inside else None,
            )
        # A pipe may be a shell's <(...), or one that nobody ever writes to.
        raw = _read_bytes(path) if path.is_file() else within(_PIPE_SECONDS, lambda: _read_bytes(path))
    except TimeoutError:
        raise ConfigError(
            f"not a regular file, and nobody wrote to it for {_PIPE_SECONDS:g} seconds", where=where
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"the configuration file cannot be read: {reason}", where=where) from None
    if len(raw) > _MAX_BYTES:
        raise ConfigError("not a configuration: larger than 1 MiB", where=where)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"not a text in UTF-8: byte {error.start} is {raw[error.start]:#04x}", where=where
        ) from None
