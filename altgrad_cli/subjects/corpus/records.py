"""A record of a published legal corpus -> its running text, whatever the layout.

The layout is told by the fields a record has, never by a file's name:

    header, recitals, main_body   EURLEX57K as it was published, one JSON a document (labels: ``concepts``)
                                  or one JSON a line (labels: ``eurovoc_concepts``)
    text: language -> text        MultiEURLEX
    text, data_type               LexGLUE's archive: one file, the split named in every record
    text                          LexGLUE and EURLEX57K as data sets on the Hub, and anything else with a text
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from altgrad_cli.errors import DataError

TEXT_FIELDS = ("text", "header", "recitals", "main_body", "data_type")
"""All that is ever read from a record; a Parquet file's other columns stay on disk."""

SPLIT_NAMES = {
    "train": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class Document:
    """One document's text, and what its record says about it."""

    text: str
    layout: str
    split: str | None = None
    """``train``, ``validation`` or ``test`` where the record or its file says so."""
    languages: tuple[str, ...] = ()
    """The languages the record has, where it has several."""


def read_record(
    record: Mapping[str, object], language: str, where: str, fields: Collection[str] | None = None
) -> Document:
    """The document in a record. Its text is empty where a multilingual record lacks ``language``.

    ``fields`` are the names of all fields where ``record`` holds only some of them (Parquet).
    Raises DataError, naming the fields there are, when none of them holds text.
    """
    fields = record.keys() if fields is None else fields
    text = record.get("text")
    if "main_body" in fields:
        kind = "one JSON a document" if "concepts" in fields else "header, recitals and main_body"
        return Document(_whole(_join_parts(record, where), where), f"EURLEX57K ({kind})")
    if isinstance(text, Mapping):
        languages = tuple(sorted(str(code) for code, found in text.items() if found))
        found = text.get(language) or ""
        if not isinstance(found, str):
            raise _not_text("text", found, where)
        return Document(_whole(found, where), f"MultiEURLEX (language {language})", languages=languages)
    if "text" not in fields:
        raise DataError(
            f"no field with text; the fields are: {', '.join(fields) or 'none'}",
            where=where,
            allowed="text, or header, recitals and main_body",
            hint="rename the field that holds the text to: text",
        )
    if not isinstance(text, str):
        raise _not_text("text", text, where)
    if "data_type" in fields:
        split = SPLIT_NAMES.get(str(record.get("data_type")).lower())
        return Document(_whole(text, where), "LexGLUE (split named in data_type)", split=split)
    if "labels" in fields:
        return Document(_whole(text, where), "LexGLUE (text and labels)")
    if "eurovoc_concepts" in fields:
        return Document(_whole(text, where), "EURLEX57K (text and eurovoc_concepts)")
    return Document(_whole(text, where), "records with a field text")


def _join_parts(record: Mapping[str, object], where: str) -> str:
    """An EURLEX57K record's running text: header, recitals, the parts of the body, a line break between."""
    body = record.get("main_body") or []
    parts = [record.get("header") or "", record.get("recitals") or ""]
    parts += body if isinstance(body, list) else [body]
    for part in parts:
        if not isinstance(part, str):
            raise _not_text("header, recitals or main_body", part, where)
    return "\n".join(str(part) for part in parts)


def _not_text(field: str, value: object, where: str) -> DataError:
    kind = "null" if value is None else type(value).__name__
    return DataError(f"the field {field} holds {kind}, not text", where=where, allowed="a string")


def _whole(text: str, where: str) -> str:
    """``text`` itself; half a surrogate pair, which JSON can spell and UTF-8 cannot, is refused."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"half a surrogate pair at character {error.start}: this is no Unicode text", where=where
        ) from error
    return text
