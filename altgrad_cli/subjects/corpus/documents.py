"""A path -> documents, training and validation apart.

Which documents are held out, in this order:

1.  what the corpus says itself: a field ``data_type``, or files and folders named for a split (``train``;
    ``dev``, ``val``, ``valid`` or ``validation``; ``test``, which is never read). Given the training file
    alone, the validation file beside it is used too, because the publisher's split is the comparable one;
2.  otherwise a share ``validation_fraction`` of the distinct documents, chosen by their sha256, so that
    neither the order of the files nor the machine matters and no text is on both sides;
3.  a corpus of one document is cut: its last ``validation_fraction`` of characters is held out.

``Documents.source`` says which of the three it was.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus.readers import READERS, read_documents, unreadable
from altgrad_cli.subjects.corpus.records import SPLIT_NAMES, Document

_SPLIT_NAME = re.compile(rf"({'|'.join(SPLIT_NAMES)})(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file to be read, and the split that its name gives its documents."""

    path: Path
    split: str | None


@dataclass(frozen=True, slots=True)
class Documents:
    """Texts, training and validation apart, and where they came from in words."""

    train: list[str]
    validation: list[str]
    source: str


def find_files(path: Path) -> list[CorpusFile]:
    """The files that make up the corpus at ``path``. Raises DataError when there are none to read."""
    try:
        if path.is_dir():
            return _files_of_folder(path)
        if not path.exists():
            raise DataError(
                "no such file or folder",
                where=str(path),
                hint="a relative data.path starts at the working directory",
            )
        if not path.is_file() or path.suffix.lower() not in READERS:
            raise DataError(
                "not a kind of file that a corpus can be read from",
                where=str(path),
                allowed=", ".join(READERS) + ", or a folder of them",
            )
        if _split_named_by(path.stem) != "train":
            return [CorpusFile(path, None)]
        beside = sorted(
            file
            for file in path.parent.iterdir()
            if file.suffix == path.suffix and _split_named_by(file.stem) == "validation" and file.is_file()
        )
        return [CorpusFile(path, "train"), *(CorpusFile(file, "validation") for file in beside)]
    except OSError as error:
        raise unreadable(path, error) from error


def _files_of_folder(folder: Path) -> list[CorpusFile]:
    inside = [file for file in _walk(folder) if file.suffix.lower() in READERS]
    kinds = sorted({file.suffix.lower() for file in inside})
    if not inside:
        next(folder.iterdir(), None)  # rglob passes over a folder it may not open; this one says so
        raise DataError("the folder holds no corpus", where=str(folder), allowed=", ".join(READERS))
    if len(kinds) > 1:
        raise DataError(
            f"the folder holds files of several kinds: {', '.join(kinds)}",
            where=str(folder),
            hint="point data.path at one file, or at a folder with one kind",
        )
    named = [CorpusFile(file, _split_of_path(file.relative_to(folder))) for file in inside]
    if not any(file.split == "train" for file in named):
        return [CorpusFile(file, None) for file in inside]
    return [file for file in named if file.split in ("train", "validation")]


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below ``folder`` in a fixed order, hidden ones apart; an unreadable folder raises."""

    def fail(error: OSError) -> None:
        raise unreadable(Path(error.filename), error) from error

    for root, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def _split_of_path(relative: Path) -> str | None:
    """The split that a file's own name or else one of its folders is named for."""
    for part in (relative.stem, *reversed(relative.parent.parts)):
        if (split := _split_named_by(part)) is not None:
            return split
    return None


def _split_named_by(name: str) -> str | None:
    """``train`` for ``train``, ``train-00000-of-00002`` and ``Train_1``, None for ``training``."""
    found = _SPLIT_NAME.match(name)
    return SPLIT_NAMES[found[1].lower()] if found else None


def load_documents(files: Sequence[CorpusFile], language: str, validation_fraction: float) -> Documents:
    """Reads ``files`` and splits what they hold. Raises DataError when either split has no text."""
    documents = [
        (document, document.split or file.split)
        for file in files
        for document in read_documents(file.path, language)
    ]
    layouts = Counter(document.layout for document, _ in documents)
    with_text = [(document.text, split) for document, split in documents if document.text.strip()]
    place = str(files[0].path if len(files) == 1 else files[0].path.parent)
    if not with_text:
        raise _no_text([document for document, _ in documents], language, place)
    train = [text for text, split in with_text if split in (None, "train")]
    validation = [text for text, split in with_text if split == "validation"]
    split_given = bool(validation) or any(file.split == "validation" for file in files)
    if split_given:
        how = _how_given(files)
    else:
        train, validation, how = hold_out(train, validation_fraction)
    for name, texts in (("training", train), ("validation", validation)):
        if not texts:
            raise DataError(
                f"the {name} split is empty",
                where=place,
                hint="check the split's file" if split_given else "raise data.validation_fraction",
            )
    without_text = len(documents) - len(with_text)
    for_testing = sum(split == "test" for _, split in with_text)
    return Documents(
        train,
        validation,
        f"{', '.join(layouts)}: {len(train)} training and {len(validation)} validation documents, {how}"
        + (f"; {for_testing} of the test split left out" if for_testing else "")
        + (f"; {without_text} without text left out" if without_text else ""),
    )


def _how_given(files: Sequence[CorpusFile]) -> str:
    beside = [file.path.name for file in files if file.split == "validation"]
    if not beside:
        return "split by their field"
    return f"validation from {beside[0]}" + (f" and {len(beside) - 1} more" if len(beside) > 1 else "")


def hold_out(texts: Sequence[str], fraction: float) -> tuple[list[str], list[str], str]:
    """``texts`` split in two by document, or inside its only document; and which of both, in words."""
    keys = [hashlib.sha256(text.encode()).digest() for text in texts]
    distinct = sorted(set(keys))
    if len(distinct) <= 1:
        text = texts[0] if texts else ""
        cut = int(len(text) * (1 - fraction))
        parts = ([part] if part.strip() else [] for part in (text[:cut], text[cut:]))
        return next(parts), next(parts), f"one document cut at {1 - fraction:.0%}"
    held_out = set(distinct[: min(len(distinct) - 1, max(1, round(len(distinct) * fraction)))])
    return (
        [text for text, key in zip(texts, keys, strict=True) if key not in held_out],
        [text for text, key in zip(texts, keys, strict=True) if key in held_out],
        "split by document",
    )


def _no_text(documents: Iterable[Document], language: str, place: str) -> DataError:
    languages = sorted({code for document in documents for code in document.languages})
    if languages:
        return DataError(
            f"no document has text in the language {language}",
            where=f"data.language, {place}",
            allowed=", ".join(languages),
        )
    return DataError("the corpus has no text, so there are no tokens", where=place)
