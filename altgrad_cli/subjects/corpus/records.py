"""A record of a published legal corpus -> its running text, whatever the layout.

The layout is told by the fields a record has, never by a file's name, unless ``data.text_field`` names one:

    header, recitals, main_body   EURLEX57K as it was published, one JSON a document (labels: ``concepts``)
                                  or one JSON a line (labels: ``eurovoc_concepts``)
    text: language -> text        MultiEURLEX
    text, data_type               LexGLUE's archive: one file, the split named in every record
    text                          LexGLUE and EURLEX57K as data sets on the Hub, and anything else with a text

Labels are a list of names or class ids in ``eurovoc_concepts``, ``concepts`` or ``labels``; MultiEURLEX has a
list for each level of EuroVoc, of which ``all_levels`` is what the other sets have too.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus.content import decode, whole_text

TEXT_FIELDS = ("text", "header", "recitals", "main_body", "data_type")
"""All that is ever read from a record; a Parquet file's other columns stay on disk."""

LABEL_FIELDS = ("eurovoc_concepts", "concepts", "labels")
"""Where labels are, the first that a record has; read only where they are asked for."""
_ALL_LEVELS = "all_levels"

SPLIT_NAMES = {
    "train": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read from a record."""

    language: str = "en"
    """Which text of a multilingual record."""
    text_field: str | None = None
    """The field that holds the text; None: told by the layout."""
    labels: bool = False
    """Whether labels are read too."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document's text, empty where the record has none, and what its record says about it."""

    text: str
    layout: str
    split: str | None = None
    """``train``, ``validation`` or ``test`` where the record or its file says so."""
    languages: tuple[str, ...] = ()
    """The languages the record has, where it has several."""
    labels: tuple[str, ...] | None = None
    """Its labels, each once; None where it has none, not even an empty list, or they were not asked for."""
    no_field: DataError | None = None
    """Set where the field for the text is missing: what to raise if all records of a file lack it."""


def read_record(
    record: Mapping[str, object], reading: Reading, where: str, fields: Collection[str] | None = None
) -> Document:
    """The document in a record, of empty text where the field is null or lacks the language.

    ``fields`` are the names of all fields where ``record`` holds only some of them (Parquet).
    Raises DataError for what is neither text nor null, and for what is no list of labels.
    """
    document = _read_text(record, reading, where, record.keys() if fields is None else fields)
    return replace(document, labels=_labels_of(record, where)) if reading.labels else document


def _read_text(
    record: Mapping[str, object], reading: Reading, where: str, fields: Collection[str]
) -> Document:
    if "main_body" in fields and reading.text_field is None:
        kind = "one JSON a document" if "concepts" in fields else "header, recitals and main_body"
        return Document(whole_text(_join_parts(record, where), where), f"EURLEX57K ({kind})")
    name = reading.text_field or "text"
    if name not in fields:
        return Document("", "", no_field=_no_field(record, reading, where, fields))
    value = record.get(name)
    if isinstance(value, Mapping):
        languages = tuple(sorted(str(code) for code, text in value.items() if text))
        text = whole_text(_text_of(value.get(reading.language), name, where), where)
        return Document(text, f"MultiEURLEX (language {reading.language})", languages=languages)
    text = whole_text(_text_of(value, name, where), where)
    if "data_type" in fields:
        split = SPLIT_NAMES.get(str(record.get("data_type")).lower())
        return Document(text, "LexGLUE (split named in data_type)", split=split)
    if "labels" in fields and reading.text_field is None:
        return Document(text, "LexGLUE (text and labels)")
    if "eurovoc_concepts" in fields and reading.text_field is None:
        return Document(text, "EURLEX57K (text and eurovoc_concepts)")
    return Document(text, f"records with a field {name}")


def _join_parts(record: Mapping[str, object], where: str) -> str:
    """An EURLEX57K record's running text: header, recitals, the parts of the body, a line break between."""
    body = record.get("main_body") or []
    parts = [record.get("header"), record.get("recitals"), *(body if isinstance(body, list) else [body])]
    return _text_of(parts, "header, recitals or main_body", where)


def _text_of(value: object, field: str, where: str) -> str:
    """The text in a value: of null, and of pandas' NaN for it, none; of a list, its parts, a line each."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        return decode(value, where)
    if isinstance(value, list):
        return "\n".join(_text_of(part, field, where) for part in value)
    if not isinstance(value, str):
        raise DataError(
            f"the field {field} holds {type(value).__name__}, not text",
            where=where,
            allowed="a string, or a list of strings",
        )
    return value


def _labels_of(record: Mapping[str, object], where: str) -> tuple[str, ...] | None:
    """The labels of a record in their order; of a mapping of levels those of all levels."""
    field = next((name for name in LABEL_FIELDS if record.get(name) is not None), None)
    if field is None:
        return None
    value = record[field]
    if isinstance(value, Mapping):
        value = value.get(_ALL_LEVELS)
    if not isinstance(value, list) or not all(type(label) in (str, int) for label in value):
        raise DataError(
            f"the field {field} holds {type(record[field]).__name__}, not labels",
            where=where,
            allowed=f"a list of names or numbers, or a mapping with such a list under {_ALL_LEVELS}",
        )
    return tuple(dict.fromkeys(str(label) for label in value))


def _no_field(
    record: Mapping[str, object], reading: Reading, where: str, fields: Collection[str]
) -> DataError:
    texts = {name: len(value) for name, value in record.items() if isinstance(value, str | bytes)}
    likely = max(texts, key=texts.__getitem__, default=None)
    named = reading.text_field
    return DataError(
        f"no field {named or 'with text'}; the fields are: {', '.join(fields) or 'none'}",
        where=where,
        allowed=", ".join(fields) if named else "text, or header, recitals and main_body",
        hint="write the text of each document into a field of its record"
        if likely is None
        else f"{shlex.quote(f'data.text_field={likely}')} reads the text from the field of that name",
    )
