"""The files of a corpus -> documents, training and validation apart.

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
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus.compression import kind_of
from altgrad_cli.subjects.corpus.corpus_files import CorpusFile
from altgrad_cli.subjects.corpus.readers import read_documents
from altgrad_cli.subjects.corpus.records import LABEL_FIELDS, Document, Reading


@dataclass(frozen=True, slots=True)
class Documents:
    """Texts, training and validation apart, and where they came from in words."""

    train: list[str]
    validation: list[str]
    source: str
    without_text: int = 0
    """Documents that were left out because there is no text in them."""
    train_labels: list[tuple[str, ...]] = field(default_factory=list)
    """Of each training document; empty where labels were not asked for."""
    validation_labels: list[tuple[str, ...]] = field(default_factory=list)
    """The same."""


def as_documents(
    train: Sequence[Document], validation: Sequence[Document], source: str, without_text: int = 0
) -> Documents:
    """Documents of both splits as their texts and, where they have them, their labels."""
    return Documents(
        [document.text for document in train],
        [document.text for document in validation],
        source,
        without_text,
        [document.labels for document in train if document.labels is not None],
        [document.labels for document in validation if document.labels is not None],
    )


def load_documents(files: Sequence[CorpusFile], reading: Reading, validation_fraction: float) -> Documents:
    """Reads ``files`` and splits what they hold. Raises DataError when either split has no text."""
    if reading.text_field is not None and any(kind_of(file.path) == ".txt" for file in files):
        raise DataError(
            "a .txt file has no fields", where=f"data.text_field={reading.text_field}", hint="leave it out"
        )
    documents = [
        (document, document.split or file.split)
        for file in files
        for document in read_documents(file.path, reading)
    ]
    layouts = Counter(document.layout for document, _ in documents if document.layout)
    with_text = [(document, split) for document, split in documents if document.text.strip()]
    place = str(files[0].path if len(files) == 1 else files[0].path.parent)
    if not with_text:
        raise _no_text([document for document, _ in documents], reading.language, place)
    labelled = [(document, split) for document, split in with_text if document.labels is not None]
    if reading.labels and not labelled:
        raise DataError(
            "no document has labels",
            where=place,
            allowed=f"a list of them in the field {' or '.join(LABEL_FIELDS)}",
        )
    kept = labelled if reading.labels else with_text
    train = [document for document, split in kept if split in (None, "train")]
    validation = [document for document, split in kept if split == "validation"]
    split_given = bool(validation) or any(file.split == "validation" for file in files)
    if split_given:
        how = _how_given(files)
    else:
        train, validation, how = hold_out(train, validation_fraction)
    for name, inside in (("training", train), ("validation", validation)):
        if not inside:
            raise DataError(
                f"the {name} split is empty",
                where=place,
                hint="check the split's file, and that not all records are of one split"
                if split_given or not train + validation
                else "raise data.validation_fraction",
            )
    without_text = len(documents) - len(with_text)
    for_testing = sum(split == "test" for _, split in kept)
    without_labels = len(with_text) - len(kept)
    return as_documents(
        train,
        validation,
        f"{', '.join(layouts)}: {len(train)} training and {len(validation)} validation documents, {how}"
        + (f"; {for_testing} of the test split left out" if for_testing else "")
        + (f"; {without_text} without text left out" if without_text else "")
        + (f"; {without_labels} without labels left out" if without_labels else ""),
        without_text,
    )


def _how_given(files: Sequence[CorpusFile]) -> str:
    beside = [file.path.name for file in files if file.split == "validation"]
    if not beside:
        return "split by their field"
    return f"validation from {beside[0]}" + (f" and {len(beside) - 1} more" if len(beside) > 1 else "")


def hold_out(documents: Sequence[Document], fraction: float) -> tuple[list[Document], list[Document], str]:
    """``documents`` split in two, or their only text cut in two; and which of both, in words.

    What has labels is not cut: both parts would have the same.
    """
    keys = [hashlib.sha256(document.text.encode()).digest() for document in documents]
    distinct = sorted(set(keys))
    if len(distinct) <= 1:
        whole = documents[0] if documents else Document("", "")
        if whole.labels is not None:
            return list(documents), [], "all of one text"
        cut = int(len(whole.text) * (1 - fraction))
        texts = (whole.text[:cut], whole.text[cut:])
        parts = ([replace(whole, text=text)] if text.strip() else [] for text in texts)
        return next(parts), next(parts), f"one document cut at {1 - fraction:.0%}"
    held_out = set(distinct[: min(len(distinct) - 1, max(1, round(len(distinct) * fraction)))])
    return (
        [document for document, key in zip(documents, keys, strict=True) if key not in held_out],
        [document for document, key in zip(documents, keys, strict=True) if key in held_out],
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
