"""From a name or a file and ``key=value`` overrides to a checked ``TrainConfig``, and back to plain values.

The configs that ship with altgrad are found by name (``e7m0_uniform``, ``gpu/e7m0_uniform``) from any
folder: inside the installed package, or at the top of a source tree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast, overload

import yaml

import altgrad_cli
from altgrad_cli.config.coercion import build, to_plain
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.config.yaml_tree import COMMAND_LINE, ConfigTree, quoted, read_tree, shown
from altgrad_cli.errors import ConfigError, nearest

T = TypeVar("T")


def load_config(name_or_path: str | None = None, overrides: Sequence[str] = ()) -> TrainConfig:
    """The training configuration that ``name_or_path`` (default ``base``) and the overrides describe.

    ``overrides`` are ``dotted.key=value``, split at the first ``=``; later ones win. Raises ConfigError (or
    another UsageError from a section's own rules) that says which file, line and key.
    """
    return load_tree(TrainConfig, find_config(name_or_path or "base"), overrides)


def load_tree(cls: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """The same for any tree of frozen dataclasses."""
    tree = read_tree(path, _find_base)
    for override in overrides:
        apply_override(tree, override)
    return build(cls, tree)


@overload
def from_plain(values: object, source: str | None = None) -> TrainConfig: ...
@overload
def from_plain(values: object, source: str | None, cls: type[T]) -> T: ...
def from_plain(values: object, source: str | None = None, cls: type = TrainConfig) -> object:
    """The configuration in a checkpoint or an event, as strictly checked; ``source`` names it in errors.

    Args:
        cls: another tree of frozen dataclasses that was kept as plain values.
    """
    if not isinstance(values, Mapping):
        raise ConfigError("a configuration is a mapping of keys to values", where=source)
    tree = ConfigTree({str(key): quoted(value) for key, value in values.items()})
    if source is not None:
        tree.origins = dict.fromkeys(tree.values, source)
    return build(cls, tree)


def with_overrides(config: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """``config`` with ``dotted.key=value`` overrides applied and every rule checked again."""
    tree = ConfigTree()
    for override in overrides:
        apply_override(tree, override)
    return build(TrainConfig, tree, onto=config)


def resolve(config: object) -> dict[str, object]:
    """Every key of ``config`` (any tree of dataclasses) as plain dicts and lists; ``from_plain`` reads it."""
    return cast(dict[str, object], to_plain(config))


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Dotted key -> value of what ``resolve`` gives, section by section; lists stay whole."""
    keys: dict[str, object] = {}
    for name, value in values.items():
        keys |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return keys


def as_word(value: object) -> str:
    """``value`` as it stands behind the ``=`` of an override: ``null``, ``true``, ``[0.9, 0.95]``."""
    return str(value) if isinstance(value, str | float) else json.dumps(value)


def changes(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, str]:
    """Dotted key -> word of every setting of ``after`` that ``before`` has not; both as ``resolve`` gives."""
    known = {key: as_word(value) for key, value in flat(before).items()}
    words = {key: as_word(value) for key, value in flat(after).items()}
    return {key: word for key, word in words.items() if known.get(key) != word}


def to_yaml(config: object) -> str:
    """``config`` (any tree of dataclasses) as the text of a YAML file that reads back to an equal one."""
    # Non-ASCII is escaped: PyYAML folds some line separators away when it writes them as they are.
    return yaml.safe_dump(to_plain(config), sort_keys=False, width=100)


def apply_override(tree: ConfigTree, override: str) -> None:
    """Set one ``dotted.key=value`` in ``tree``."""
    key, equals, value = override.partition("=")
    key = key.strip()
    if not equals or not all(part and part == part.strip() for part in key.split(".")):
        raise ConfigError(
            f"not an override: {override!r}",
            where=COMMAND_LINE,
            allowed="key=value or section.key=value, for example optimizer.warmup_steps=50",
        )
    tree.put(key, value, COMMAND_LINE)


def shipped_folder() -> Path:
    """Where the shipped configs lie: in the installed package, or in a source tree."""
    package = Path(altgrad_cli.__file__).resolve().parent
    inside = package / "_configs"
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_configs() -> dict[str, Path]:
    """Name -> file of every shipped config, ``gpu/name`` for those in a subfolder, in order of name."""
    folder = shipped_folder()
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))
    }


def find_config(name_or_path: str) -> Path:
    """The file meant: a shipped name where nothing but a name is given, otherwise a path."""
    shipped = shipped_configs()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    try:
        if path.exists():
            return path
    except (OSError, ValueError):  # too long, a NUL byte: not a file in any case
        pass
    stem = path.with_suffix("").name if path.suffix in (".yaml", ".yml") else name_or_path
    guess = nearest(stem, shipped)
    if path.suffix in (".yaml", ".yml") or path.is_absolute():
        raise ConfigError(
            f"there is no such configuration file: {shown(path)}",
            where=str(path),
            hint=f"a config of this name ships with altgrad: {stem}"
            if stem in shipped
            else (f"did you mean the shipped config {guess}?" if guess else None),
        )
    raise ConfigError(
        f"unknown config: {name_or_path}",
        allowed=f"a path to a YAML file, or a shipped config: {', '.join(shipped)}",
        hint=f"did you mean {guess}?" if guess else None,
    )


def _find_base(name: str, folder: Path) -> Path:
    """What ``extends: name`` means in ``folder``: a file beside it, else a shipped config."""
    beside = folder / name
    return beside if beside.is_file() else find_config(name.removesuffix(".yaml"))
