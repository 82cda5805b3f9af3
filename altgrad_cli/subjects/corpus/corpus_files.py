"""A path -> the files that make up the corpus there, each with the split that its name gives its documents.

Nothing that may be text is passed over in silence: what a folder holds besides is counted in a warning
(logger ``altgrad_cli.data``). Apart from that are hidden files and what data sets say about themselves.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus.compression import COMPRESSIONS, bare, compressions_of, feed, kind_of
from altgrad_cli.subjects.corpus.content import open_content, regular_status, unreadable
from altgrad_cli.subjects.corpus.readers import READERS, can_read
from altgrad_cli.subjects.corpus.records import SPLIT_NAMES

_SPLIT_NAME = re.compile(rf"({'|'.join(SPLIT_NAMES)})(?![a-z])", re.IGNORECASE)
_SHARD = re.compile(r"(?P<split>.*)-(?P<number>\d+)-of-(?P<shards>\d+)")
_METADATA = re.compile(
    r"(dataset_(infos?|dict)\.json|(readme|licen[cs]e|citation)(\.\w+)?|_success|_(common_)?metadata)",
    re.IGNORECASE,
)
_ALLOWED = (
    f"{', '.join(READERS)}, all but the last also with {', '.join(each.suffix for each in COMPRESSIONS)};"
    " or a folder of them"
)
_LONGEST_LINK = 256
_log = logging.getLogger("altgrad_cli.data")


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file to be read, and the split that its name gives its documents."""

    path: Path
    split: str | None


def find_files(path: Path) -> list[CorpusFile]:
    """The files that make up the corpus at ``path``. Raises DataError when there are none to read."""
    try:
        if path.is_dir():
            return _files_of_folder(path)
        if not path.exists() and not path.is_symlink():
            raise DataError(
                "no such file or folder",
                where=str(path),
                hint="a relative data.path starts at the working directory",
            )
        regular_status(path)
        if not can_read(path):
            raise _no_corpus_file(path)
        _say_missing_shards([CorpusFile(path, None)])
        if _split_named_by(bare(path).stem) != "train":
            return [CorpusFile(path, None)]
        beside = [
            file
            for file in sorted(path.parent.iterdir())
            if can_read(file)
            and _family(file) == _family(path)
            and _split_named_by(bare(file).stem) == "validation"
            and not file.is_dir()
        ]
        return [
            CorpusFile(path, "train"),
            *(CorpusFile(file, "validation") for file in _one_of_each(beside, {})),
        ]
    except OSError as error:
        raise unreadable(Path(error.filename or path), error) from error


def _no_corpus_file(path: Path) -> DataError:
    """What to raise for a file whose name is of no kind that is read here."""
    name, layers = bare(path).stem, compressions_of(path)
    suffixes = "".join(layer.suffix for layer in reversed(layers))
    hint = f"if it is one plain text, call it {name}.txt{suffixes}; if records, {name}.jsonl{suffixes}"
    if layers:
        hint += f"; else unpack it: {feed(path, layers)} > {shlex.quote(bare(path).name)}"
    message = "not a kind of file that a corpus can be read from"
    try:
        with open_content(path):
            return DataError(message, where=str(path), allowed=_ALLOWED, hint=hint)
    except DataError as error:
        return DataError(f"{message}: {error.message}", where=str(path), allowed=_ALLOWED, hint=error.hint)


def _files_of_folder(folder: Path) -> list[CorpusFile]:
    passed_over: dict[Path, str] = {}
    inside = _one_of_each(_walk(folder, passed_over), passed_over)
    if not inside:
        raise DataError(
            "the folder holds no corpus" + (f", only {_counted(passed_over)}" if passed_over else ""),
            where=str(folder),
            allowed=_ALLOWED,
            hint=_no_corpus_file(next(iter(passed_over))).hint if passed_over else None,
        )
    named = [CorpusFile(file, _split_of_path(file.relative_to(folder))) for file in inside]
    kinds = Counter(_family(file.path) for file in named)
    if len(kinds) > 1:
        # A kind of which there is a training split is the corpus; the rest says something about it.
        of_training = {_family(file.path) for file in named if file.split == "train"}
        if len(of_training) != 1:
            largest, count = kinds.most_common(1)[0]
            raise DataError(
                f"the folder holds files of several kinds: {', '.join(sorted(kinds))}",
                where=str(folder),
                hint=f"move the {count} {largest} files, or those of another kind, to a folder of their own:"
                " all files there are read together",
            )
        passed_over |= {file.path: "" for file in named if _family(file.path) not in of_training}
    if any(file.split == "train" for file in named):
        passed_over |= {file.path: "" for file in named if file.split is None}
        named = [file for file in named if file.path not in passed_over and file.split != "test"]
    else:
        named = [CorpusFile(file.path, None) for file in named]
    if passed_over:
        _log.warning("%s: passed over %s", folder, _counted(passed_over))
    _say_missing_shards(named)
    return named


_FAMILIES = {reader: kind for kind, reader in reversed(tuple(READERS.items()))}
"""The first suffix of each reader, which stands for all of its suffixes."""


def _family(path: Path) -> str:
    """The kind of file, by the first suffix that its reader has."""
    return _FAMILIES[READERS[kind_of(path)]]


def _counted(passed_over: Mapping[Path, str]) -> str:
    """``3 files (2 .csv, 1 .zip): b.csv, ...``, of a file that there is something to say about first."""
    kinds = Counter("".join(file.suffixes[-2:]) or "without a suffix" for file in passed_over)
    first, why = max(passed_over.items(), key=lambda item: bool(item[1]))
    files = f"{len(passed_over)} file{'s' if len(passed_over) > 1 else ''}"
    return (
        f"{files} ({', '.join(f'{count} {kind}' for kind, count in kinds.items())}): {first}"
        + (f" ({why})" if why else "")
        + (", ..." if len(passed_over) > 1 else "")
    )


def _one_of_each(files: Iterable[Path], passed_over: dict[Path, str]) -> list[Path]:
    """The files that can be read, each once, in the order given; of a compressed copy only the original.

    Raises DataError for a pipe, a device or a link to nowhere among them.
    """
    readable: dict[tuple[object, ...], Path] = {}
    for file in files:
        if not can_read(file):
            passed_over[file] = _written_link(file)
            continue
        status = regular_status(file)
        # Two names of one file are one file, unless they are names of two splits.
        identity = (status.st_dev, status.st_ino, _split_named_by(bare(file).stem))
        first = readable.setdefault(identity, file)
        if first != file:
            passed_over[file] = f"the same file as {first}"
        elif status.st_size < _LONGEST_LINK and (why := _written_link(file)):
            passed_over[file] = why
    there = set(readable.values())
    for file in readable.values():
        if compressions_of(file) and bare(file) in there:
            passed_over[file] = f"a copy of {bare(file).name}"
    return [file for file in readable.values() if file not in passed_over]


def _written_link(file: Path) -> str:
    """What to say of a file that is only the path of another: so git writes a link where it may make none."""
    if not file.is_file() or file.stat().st_size >= _LONGEST_LINK:
        return ""
    target = os.fsdecode(file.read_bytes())
    if target and target.isprintable() and (file.parent / target).exists():
        return f"a link to {target} that was copied as a text"
    return ""


def _walk(folder: Path, passed_over: dict[Path, str]) -> Iterator[Path]:
    """Every file below ``folder`` in a fixed order, hidden ones and metadata apart.

    Linked folders follow at the end. None is entered twice, and none that ``folder`` itself lies in.
    An unreadable folder raises.
    """

    def fail(error: OSError) -> None:
        raise unreadable(Path(error.filename), error) from error

    above = [_identity(parent) for parent in folder.resolve().parents]
    entered = set(above)
    waiting = [folder]
    while waiting:
        start = waiting.pop(0)
        if _identity(start) in entered:
            if _identity(start) in above:
                passed_over[start] = "a link to a folder above"
            continue
        for root, folders, names in os.walk(start, onerror=fail):
            entered.add(_identity(Path(root)))
            visible = [Path(root, name) for name in sorted(folders) if not name.startswith(".")]
            waiting += [inside for inside in visible if inside.is_symlink()]
            folders[:] = [inside.name for inside in visible if _identity(inside) not in entered]
            saved = "dataset_info.json" in names  # by `datasets`, and then state.json is its own as well
            yield from (
                Path(root, name)
                for name in sorted(names)
                if not (name.startswith(".") or _METADATA.fullmatch(name) or (saved and name == "state.json"))
            )


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _split_of_path(relative: Path) -> str | None:
    """The split that a file's own name or else one of its folders is named for."""
    for part in (bare(relative).stem, *reversed(relative.parent.parts)):
        if (split := _split_named_by(part)) is not None:
            return split
    return None


def _split_named_by(name: str) -> str | None:
    """``train`` for ``train``, ``train-00000-of-00002`` and ``Train_1``, None for ``training``."""
    match = _SPLIT_NAME.match(name)
    return SPLIT_NAMES[match[1].lower()] if match else None


def _say_missing_shards(files: Iterable[CorpusFile]) -> None:
    """Warns of a split of which only some shards are read, the others being absent or not asked for."""
    shards: dict[tuple[Path, str, int], set[int]] = {}
    for file in files:
        if match := _SHARD.fullmatch(bare(file.path).stem):
            place = (file.path.parent, match["split"], int(match["shards"]))
            shards.setdefault(place, set()).add(int(match["number"]))
    for (folder, split, count), present in shards.items():
        if len(present) < count:
            _log.warning("%s: %d of the %d shards of %s are read", folder, len(present), count, split)
